//! Debian's docker-registry (distribution 2.8) on a loopback port.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::process::{Daemon, run, succeeded, until};
use super::token_server::{ISSUER, SERVICE, TokenServer};

const START: Duration = Duration::from_mins(1);
const PUSH: Duration = Duration::from_mins(5);

/// One registry with file-system storage and deletion enabled. It keeps its port and its content
/// over [`stop`](Self::stop) and [`start_again`](Self::start_again).
#[derive(Debug)]
pub struct DockerRegistry {
    dir: PathBuf,
    addr: SocketAddr,
    daemon: Option<Daemon>,
    /// The `auth` section of its configuration.
    auth: String,
    /// The user that pushes, name and password.
    pusher: Option<(String, String)>,
}

impl DockerRegistry {
    /// Starts an open registry that keeps everything below `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::start_for(dir, &[]).await
    }

    /// Starts a registry that serves only `users`, name and password each, by HTTP Basic.
    pub async fn start_for(dir: &Path, users: &[(&str, &str)]) -> Result<Self> {
        let Some(&pusher) = users.first() else {
            return Self::launched(dir, String::new(), None).await;
        };
        std::fs::create_dir_all(dir)?;
        let file = dir.join("htpasswd");
        write_htpasswd(&file, users).await?;
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        );
        Self::launched(dir, auth, Some(pusher)).await
    }

    /// Starts a registry that serves only clients with a token of `tokens`.
    pub async fn start_with_tokens(dir: &Path, tokens: &TokenServer) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let bundle = dir.join("tokens.pem");
        std::fs::write(&bundle, tokens.certificate_pem())?;
        let auth = format!(
            "auth:\n  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {}\n",
            tokens.realm(),
            bundle.display()
        );
        let pusher = tokens.pusher().context("nobody may push")?;
        Self::launched(dir, auth, Some((&pusher.name, &pusher.password))).await
    }

    async fn launched(dir: &Path, auth: String, pusher: Option<(&str, &str)>) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut registry = Self {
            dir: dir.to_owned(),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            daemon: None,
            auth,
            pusher: pusher.map(|(name, password)| (name.to_owned(), password.to_owned())),
        };
        registry.launch().await?;
        Ok(registry)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Host and port as an image reference and `ns` have them.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The base URL, plain HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops it; its port then refuses connections.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Starts it again on the same port with the same content.
    pub async fn start_again(&mut self) -> Result<()> {
        self.stop();
        self.launch().await
    }

    /// Pushes the only image (or index, with all its platforms) of an OCI layout as
    /// `name` ("repository:tag"), byte for byte.
    pub async fn push_layout(&self, layout: &Path, name: &str) -> Result<()> {
        let mut skopeo = tokio::process::Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--all", "--preserve-digests"]);
        skopeo.arg("--dest-tls-verify=false");
        if let Some((user, password)) = &self.pusher {
            skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        skopeo.arg(format!("oci:{}", layout.display()));
        skopeo.arg(format!("docker://{}/{name}", self.addr));
        succeeded(&run(&mut skopeo, PUSH).await?)
            .with_context(|| format!("pushing {name} to {}", self.addr))?;
        Ok(())
    }

    /// Every request answered since the first start, in the order of their ends.
    ///
    /// The registry logs a request only after its answer has left. So this first sends a marker request and waits for
    /// it in the log: every request that a client has seen completed is then logged too.
    pub async fn requests(&self) -> Result<Requests> {
        if self.daemon.is_some() {
            let marker = format!("marker/{:016x}", fastrand::u64(..));
            self.mark(&marker).context("asking for the marker")?;
            let path = self.access_log();
            until("the marker in the access log", START, || {
                std::fs::read_to_string(&path).is_ok_and(|log| log.contains(&marker))
            })
            .await?;
        }
        let log = std::fs::read_to_string(self.access_log())?;
        Ok(Requests::of_log(&log).only(|request| !request.agent.starts_with("marker/")))
    }

    fn mark(&self, marker: &str) -> Result<()> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(START))?;
        write!(
            stream,
            "GET /v2/ HTTP/1.1\r\nHost: {}\r\nUser-Agent: {marker}\r\nConnection: close\r\n\r\n",
            self.addr
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.starts_with(b"HTTP/1.1 "), "no HTTP answer");
        Ok(())
    }

    async fn launch(&mut self) -> Result<()> {
        let config = self.dir.join("config.yml");
        std::fs::write(&config, self.config())?;
        let log = self.dir.join("registry.log");
        let past = std::fs::metadata(&log).map_or(0, |meta| meta.len() as usize);
        let mut daemon = Daemon::start(
            "docker-registry",
            Command::new("docker-registry").arg("serve").arg(&config),
            &self.access_log(),
            &log,
        )?;
        let mut bound = None;
        daemon
            .ready(START, |daemon| {
                bound = daemon.log().get(past..).and_then(listening);
                bound.is_some()
            })
            .await?;
        self.addr = bound.context("the registry did not say where it listens")?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Port 0 at the first start: the kernel picks, and the log tells which.
    fn config(&self) -> String {
        format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {}\n{}",
            self.dir.join("data").display(),
            self.addr,
            self.auth,
        )
    }

    fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }
}

async fn write_htpasswd(path: &Path, users: &[(&str, &str)]) -> Result<()> {
    let mut file = String::new();
    for (name, password) in users {
        let mut htpasswd = tokio::process::Command::new("htpasswd");
        htpasswd.args(["-Bbn", name, password]);
        file += &succeeded(&run(&mut htpasswd, START).await?)?;
    }
    std::fs::write(path, file)?;
    Ok(())
}

/// The address in the line `… msg="listening on 127.0.0.1:5000" …`.
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    let (addr, _) = rest.split_once('"')?;
    addr.parse().ok()
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query, empty when there is none.
    pub query: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The client's User-Agent.
    pub agent: String,
}

impl Logged {
    /// Reads a line in the combined log format; anything else is `None`.
    fn parse(line: &str) -> Option<Self> {
        let mut quoted = line.split('"');
        let _client = quoted.next()?;
        let mut request = quoted.next()?.split(' ');
        let mut answer = quoted.next()?.split_whitespace();
        let _referer = quoted.next()?;
        let _gap = quoted.next()?;
        let agent = quoted.next()?.to_owned();
        let method = request.next()?.to_owned();
        let target = request.next()?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Some(Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            status: answer.next()?.parse().ok()?,
            bytes: answer.next()?.parse().ok()?,
            agent,
        })
    }
}

/// A registry's answered requests.
#[derive(Clone, Debug, Default)]
pub struct Requests(pub Vec<Logged>);

impl Requests {
    /// The access lines of a log that may have other lines.
    pub fn of_log(log: &str) -> Self {
        Self(log.lines().filter_map(Logged::parse).collect())
    }

    /// The requests after `earlier`, which must be an earlier answer of the same registry.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.get(earlier.0.len()..).unwrap_or_default().to_vec())
    }

    /// The requests for which `keep` holds.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Logged) -> bool) -> Self {
        Self(self.0.iter().filter(|&one| keep(one)).cloned().collect())
    }

    /// Requests that carried content: GETs of manifests and blobs.
    #[must_use]
    pub fn content_gets(&self) -> Self {
        self.only(|one| {
            one.method == "GET"
                && (one.path.contains("/manifests/") || one.path.contains("/blobs/"))
        })
    }

    /// HEADs of manifests: what resolving a tag costs.
    #[must_use]
    pub fn manifest_heads(&self) -> Self {
        self.only(|one| one.method == "HEAD" && one.path.contains("/manifests/"))
    }

    /// Requests from clients whose User-Agent starts with `agent`.
    #[must_use]
    pub fn from_agent(&self, agent: &str) -> Self {
        self.only(|one| one.agent.starts_with(agent))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all their bodies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|one| one.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_line_is_read() {
        let line = r#"127.0.0.1 - - [22/Nov/2026:10:21:23 +0000] "GET /v2/a/b/blobs/sha256:00?ns=q HTTP/1.1" 206 91 "" "containerd/1.6.20""#;
        let logged = Logged::parse(line).unwrap();
        assert_eq!(logged.method, "GET");
        assert_eq!(logged.path, "/v2/a/b/blobs/sha256:00");
        assert_eq!(logged.query, "ns=q");
        assert_eq!((logged.status, logged.bytes), (206, 91));
        assert_eq!(logged.agent, "containerd/1.6.20");
        assert_eq!(Logged::parse("no access line"), None);
    }

    #[test]
    fn address_is_found_in_the_log() {
        let log =
            "time=\"t\" level=info msg=\"listening on 127.0.0.1:59705\" go.version=go1.19.8\n";
        assert_eq!(listening(log), Some(([127, 0, 0, 1], 59705).into()));
        assert_eq!(listening("msg=\"listening on 127.0"), None);
    }
}
