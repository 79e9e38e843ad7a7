//! `larder upstreams`: the registries that this node uses, their state, and whether they can be reached.

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
  larder upstreams                       every registry that is configured or was used, and its state
  larder upstreams --check               a test connection to each of them
  larder upstreams ghcr.io --check       to one of them, even if it was never used
  larder upstreams --json | jq '.upstreams[].endpoints[].rate_limits'

STATE is ok; avoided, after failures, until a probe succeeds; or silent, because the registry asked larder to wait.
--check requests /v2/ from each endpoint and sends the node's own credentials to the origin. Exit code 3: a check found
something wrong. Secrets are never printed.")]
pub struct UpstreamsArgs {
    /// Only this registry
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Connect to every endpoint, try the node's own credentials, and report the result
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
            "no registry is configured, and none was used yet: larder asks a registry at its own name when a client pulls from it",
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
        if let Some(identity) = &upstream.identity {
            say(&format!("{}: {identity}", upstream.registry));
        }
        for finding in &upstream.findings {
            say(&styled(
                WARNING,
                format_args!("{}: {finding}", upstream.registry),
            ));
        }
    }
    Ok(0)
}

/// A row for each endpoint; the first also has the registry's own values.
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
        let with = if limit.credential {
            " with a credential"
        } else {
            ""
        };
        format!("{} of {}{with}", limit.remaining, limit.limit)
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
