//! `larder explain REF`: what a pull would do, and why.

use std::{io::Read as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Method, header};
use larder_shared::{
    admin::{BlobSource, Explanation, PullOutcome, Status, Step, StepName, StepOutcome},
    name::ImageName,
};

use super::{
    FOUND,
    node_files::{CERTS_DIR, NodeFiles},
    runtime::{self, HostDir, Said},
    show::{say, size},
    socket::{SocketArgs, ask, ask_showing, encoded, read},
    trace,
};
use crate::{
    client::Client,
    config::{self, Config},
    credentials::{Credential, Credentials, Secret, Settings},
};

/// Say what a pull of an image would do, step by step, and why, without transferring the image.
///
/// The registry gets at most the requests of the runtime's first HEAD. A pod's own secret goes to the daemon only over
/// the admin socket; larder neither logs nor stores it. Exit code 0: a pull would get the image; 3: it would not.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder explain nginx
  larder explain --trace ghcr.io/owner/app
  larder explain ghcr.io/owner/app:v1 --docker-config ~/.docker/config.json
  kubectl get secret pull -o jsonpath='{.data.password}' | base64 -d |
    kubectl exec -i ds/larder -- larder explain ghcr.io/owner/app:v1 --username me --password-stdin")]
pub struct ExplainArgs {
    /// The image, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF", required_unless_present = "trace")]
    image: Option<String>,
    /// Follow real pulls as they happen, of one repository or of all
    #[arg(long, conflicts_with_all = ["username", "docker_config", "platform"])]
    trace: bool,
    /// Send this user's credentials where the runtime would send the pod's
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username", conflicts_with = "docker_config")]
    password_stdin: bool,
    /// Send the credentials that this Docker config.json (as in a pull secret) has for the image
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    docker_config: Option<PathBuf>,
    /// The platform to take from an index [default: this node's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    files: NodeFiles,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn explain(args: &ExplainArgs) -> anyhow::Result<u8> {
    if args.trace {
        return trace::follow(args.image.as_deref(), &args.socket);
    }
    // clap has made sure that an image is given.
    let said = args.image.as_deref().unwrap_or_default();
    let image: ImageName = said.parse().map_err(|error| anyhow!("{said}: {error}"))?;
    let mut path = format!("/explain?ref={}", encoded(said));
    if let Some(platform) = &args.platform {
        path = format!("{path}&platform={}", encoded(platform));
    }
    let mut headers = HeaderMap::new();
    if let Some(credential) = credential(args, &image)? {
        headers.insert(header::AUTHORIZATION, basic(&credential)?);
    }
    let text = ask_showing(&args.socket, Method::GET, &path, headers)?;
    let mut explanation: Explanation = read(&text)?;
    let runtime = in_runtime(args, &image);
    explanation
        .steps
        .insert(1.min(explanation.steps.len()), runtime);
    let gets = [PullOutcome::Served, PullOutcome::Stale];
    let got = gets
        .iter()
        .any(|word| word.as_str() == explanation.pull.outcome);
    if args.socket.json {
        say(&serde_json::to_string(&explanation)?);
    } else {
        show(&explanation);
    }
    Ok(if got { 0 } else { FOUND })
}

fn show(explanation: &Explanation) {
    say(&explanation.image);
    for step in &explanation.steps {
        say(&format!(
            "  {:<10} {:<16} {}",
            step.step, step.outcome, step.detail
        ));
    }
    let pull = &explanation.pull;
    let mut line = format!("  {:<10} {}", "pull", pull.outcome);
    if pull.blobs.is_some() {
        let parts = BlobSource::ALL.iter().filter_map(|source| {
            let bytes = pull.bytes_from(*source);
            (bytes > 0).then(|| format!("{} from {}", size(bytes), source.as_str()))
        });
        let parts: Vec<String> = parts.collect();
        if !parts.is_empty() {
            line = format!("{line}: {}", parts.join(", "));
        }
    }
    say(&line);
}

/// The credentials that the runtime would send after a challenge.
fn credential(args: &ExplainArgs, image: &ImageName) -> anyhow::Result<Option<Credential>> {
    if let Some(username) = &args.username {
        let mut password = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut password)
            .context("the password cannot be read from standard input")?;
        let password = Secret::new(password.trim_end_matches(['\r', '\n']));
        return Ok(Some(Credential::Basic {
            username: username.clone(),
            password,
        }));
    }
    let Some(file) = &args.docker_config else {
        return Ok(None);
    };
    let source = config::Credentials::DockerConfig {
        path: std::path::absolute(file)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let credentials = Credentials::new(Settings::default(), &Arc::new(Client::new()));
    let mut upstream = Config::default().upstream(image.registry.as_str());
    upstream.credentials = Some(source);
    let found =
        runtime.block_on(credentials.lookup(&image.registry, &image.repository, &upstream))?;
    match found.into_iter().next() {
        Some(found) => Ok(Some(found.credential)),
        None => bail!("{} has no credentials for {image}", file.display()),
    }
}

/// The header as the runtime sends it. For an identity token, Docker's convention is the username `<token>`.
fn basic(credential: &Credential) -> anyhow::Result<HeaderValue> {
    let (username, password) = match credential {
        Credential::Basic { username, password } => (username.as_str(), password),
        Credential::IdentityToken(token) => ("<token>", token),
    };
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let encoded = Secret::new(BASE64.encode(pair.expose().as_bytes()));
    let mut value = HeaderValue::try_from(format!("Basic {}", encoded.expose()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What containerd on this node would do with the image's name, if its files can be seen here.
fn in_runtime(args: &ExplainArgs, image: &ImageName) -> Step {
    let say = |outcome, detail: String| Step::new(StepName::Runtime, outcome, detail);
    let Some(certs) = args.files.certs_dir() else {
        return say(
            StepOutcome::Unseen,
            format!(
                "{CERTS_DIR} cannot be seen from here, so it is unknown what containerd does with the name (--containerd-certs-dir)"
            ),
        );
    };
    let registry = image.registry.as_str();
    let bypassed = |why: String| {
        say(
            StepOutcome::Bypassed,
            format!("{why}: containerd asks {registry} itself"),
        )
    };
    let root = args.files.root();
    let found = root.map(|root| runtime::lookup(&root, &certs, registry));
    let Ok(Some(HostDir { file, said, .. })) = found else {
        return bypassed(format!(
            "{} has no directory for {registry}, and no _default",
            certs.display()
        ));
    };
    let hosts = match said {
        Said::Nothing => {
            let dir = file.parent().unwrap_or(&file).display().to_string();
            return bypassed(format!("{dir} has no hosts.toml"));
        }
        Said::Unusable(why) => {
            return bypassed(format!("{} is invalid, {why}", file.display()));
        }
        Said::Hosts(hosts) => hosts,
    };
    let last = hosts.server.as_deref().unwrap_or(registry);
    let mut order: Vec<&str> = hosts.listed.iter().map(|host| host.url.as_str()).collect();
    order.push(last);
    let detail = format!("{}: {}", file.display(), order.join(", then "));
    let larder = hosts.listed.iter().position(|host| {
        hosts.installed.as_ref() == Some(&host.url)
            || runtime::local(&host.url).is_some_and(|at| is_own(args, &at))
    });
    match larder {
        Some(_) => say(StepOutcome::Ok, detail),
        None => say(
            StepOutcome::Bypassed,
            format!("{detail}; larder is not among them"),
        ),
    }
}

/// Whether the running larder listens at this place, judged by the port.
fn is_own(args: &ExplainArgs, place: &str) -> bool {
    let status = ask(&args.socket, Method::GET, "/status").and_then(|text| read::<Status>(&text));
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    status.is_ok_and(|status| port(&status.listen.registry) == port(place))
}
