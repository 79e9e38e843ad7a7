//! `larder upstreams`: the registries behind this node, how they fare, and whether they can be reached.

use http::Method;
use larder_shared::admin::{Endpoint, Finding, Severity, Upstream, Upstreams};

use url::form_urlencoded::Serializer;

use super::{
    FOUND,
    show::{BAD, GOOD, WARNING, say, say_json, styled},
    socket::{SocketArgs, asked},
    table::{Column, say_table},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder upstreams                       every registry that is configured or was used, and how it fares
  larder upstreams --check               a test connection to each of them
  larder upstreams ghcr.io --check       to one of them, used before or not
  larder upstreams --json | jq '.upstreams[].endpoints[].rate_limits'

STATE is ok; avoided, after failures, until a probe succeeds; or silent, since the registry asked to be left alone.
--check asks for /v2/ at each endpoint and shows the node's own credentials to the origin. Exit code 3: something is
wrong. Secrets are never shown.")]
pub struct UpstreamsArgs {
    /// Only this registry
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Connect to every endpoint, try the node's own credentials, and give a verdict
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn upstreams(args: &UpstreamsArgs) -> anyhow::Result<u8> {
    let mut path = Serializer::for_suffix(String::from("/upstreams?"), "/upstreams?".len());
    if let Some(name) = &args.name {
        path.append_pair("name", name);
    }
    if args.check {
        path.append_key_only("check");
    }
    let path = path.finish();
    let upstreams: Upstreams = asked(&args.socket, Method::GET, &path)?;
    let wrong = |finding: &Finding| finding.severity != Severity::Ok;
    let checks = || {
        upstreams
            .upstreams
            .iter()
            .flat_map(|upstream| &upstream.checks)
    };
    let code = if checks().any(wrong) { FOUND } else { 0 };
    if args.socket.json {
        say_json(&upstreams)?;
        return Ok(code);
    }
    if args.check {
        for finding in checks() {
            say_finding(finding);
        }
        return Ok(code);
    }
    if upstreams.upstreams.is_empty() {
        say(
            "no registry is configured and none was used yet: any is asked at its own name when an image of it is pulled",
        );
        return Ok(0);
    }
    let columns = [
        Column::Word("REGISTRY"),
        Column::Text("ENDPOINT"),
        Column::Word("STATE"),
        Column::Text("REQUESTS LEFT"),
        Column::Number("REPOSITORIES"),
        Column::Word("CONFIGURED"),
    ];
    let rows = upstreams.upstreams.iter().flat_map(rows_of).collect();
    say_table(&columns, rows);
    for upstream in &upstreams.upstreams {
        for finding in &upstream.findings {
            say(&styled(
                WARNING,
                format_args!("{}: {finding}", upstream.registry),
            ));
        }
    }
    Ok(0)
}

/// A row for each endpoint; what is the registry's own stands in the first.
fn rows_of(upstream: &Upstream) -> Vec<Vec<String>> {
    let row = |(index, endpoint): (usize, &Endpoint)| {
        let first = |text: String| if index == 0 { text } else { String::new() };
        vec![
            first(upstream.registry.clone()),
            endpoint.url.trim_end_matches('/').to_owned(),
            match endpoint.silent_seconds {
                Some(left) => format!("{}, {left} s", endpoint.state),
                None => endpoint.state.clone(),
            },
            limits(endpoint),
            first(upstream.repositories.to_string()),
            first(if upstream.configured { "yes" } else { "" }.to_owned()),
        ]
    };
    upstream.endpoints.iter().enumerate().map(row).collect()
}

fn limits(endpoint: &Endpoint) -> String {
    let told = endpoint.rate_limits.iter().map(|limit| {
        let who = if limit.credential {
            " with a credential"
        } else {
            ""
        };
        format!("{} of {}{who}", limit.remaining, limit.limit)
    });
    told.collect::<Vec<_>>().join(", ")
}

fn say_finding(finding: &Finding) {
    let (style, word) = match finding.severity {
        Severity::Ok => (GOOD, "ok"),
        Severity::Warning => (WARNING, "warning"),
        Severity::Error => (BAD, "error"),
    };
    say(&format!(
        "{}  {}",
        styled(style, format_args!("{word:<7}")),
        finding.found
    ));
    if !finding.fix.is_empty() {
        say(&format!("         {}", finding.fix));
    }
}
