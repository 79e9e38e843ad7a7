//! How commands reach the running larder: requests over its admin socket, and what to do if the daemon does not answer.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use larder_shared::admin::VERSION_HEADER;
use serde::de::DeserializeOwned;

use super::show::warn;
use crate::config::{Admin, Config};

/// This command's version, which should be the daemon's too.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the warning about an invalid configuration file only once.
static SAID: Once = Once::new();

/// The command gives up after this long without a byte in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// How to find the running larder.
#[derive(Clone, Debug, clap::Args)]
pub struct SocketArgs {
    /// The admin socket of the running larder [default: from the configuration]
    #[arg(
        long,
        env = "LARDER_SOCKET",
        value_name = "PATH",
        help_heading = "Daemon"
    )]
    pub socket: Option<PathBuf>,
    /// The configuration file, which may name the socket
    #[arg(
        long,
        env = "LARDER_CONFIG",
        value_name = "FILE",
        help_heading = "Daemon"
    )]
    pub config: Option<PathBuf>,
    /// How many seconds the daemon may take to answer
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Daemon"
    )]
    pub timeout: u64,
    /// Print JSON, as docs/cli.md describes it
    #[arg(long)]
    pub json: bool,
}

impl SocketArgs {
    /// The socket's path. An invalid file must not hide the daemon, which keeps its previous configuration.
    fn path(&self) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        match Config::load(self.config.as_deref()) {
            Ok(config) => config.admin.socket,
            Err(error) => {
                let socket = self.config.as_deref().and_then(socket_said);
                let socket = socket.unwrap_or_else(|| Admin::default().socket);
                SAID.call_once(|| {
                    warn(&format!(
                        "{error}; this command looks for the daemon at {}",
                        socket.display()
                    ));
                });
                socket
            }
        }
    }
}

/// The socket that a file names, even if other settings in it are invalid.
fn socket_said(file: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(file).ok()?;
    let said: toml::Table = text.parse().ok()?;
    Some(said.get("admin")?.get("socket")?.as_str()?.into())
}

/// The text, encoded for a query.
pub fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Reads the daemon's answer. Unknown fields are ignored, and an error names a missing field.
pub fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        anyhow!(
            "cannot read the daemon's answer: {error}; this command has version {VERSION}: \
             use the larder of the daemon's version (`kubectl exec ds/larder -- larder …`)"
        )
    })
}

/// One request over the admin socket.
pub fn ask(args: &SocketArgs, method: Method, path: &str) -> anyhow::Result<String> {
    ask_showing(args, method, path, HeaderMap::new())
}

/// As [`ask`], with additional headers, such as credentials.
pub fn ask_showing(
    args: &SocketArgs,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<String> {
    run(async {
        let response = send(args, method, path, headers).await?;
        let body = response.into_body().collect();
        let body = tokio::time::timeout(SILENCE, body)
            .await
            .map_err(|_| {
                anyhow!("the daemon stopped sending in the middle of its answer: look at its log")
            })?
            .context(
                "the daemon closed the connection in the middle of its answer: look at its log",
            )?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    })
}

/// One request, and its answer as JSON.
pub fn asked<T: DeserializeOwned>(
    args: &SocketArgs,
    method: Method,
    path: &str,
) -> anyhow::Result<T> {
    read(&ask(args, method, path)?)
}

/// One request whose answer comes line by line; `each` gets each line as it comes.
pub fn lines(
    args: &SocketArgs,
    path: &str,
    headers: HeaderMap,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run(async {
        let mut body = send(args, Method::POST, path, headers).await?.into_body();
        let mut rest = Vec::new();
        loop {
            let frame = tokio::time::timeout(SILENCE, body.frame())
                .await
                .map_err(|_| {
                    anyhow!("the daemon stopped sending in the middle of its work: look at its log")
                })?;
            let Some(frame) = frame else {
                return Ok(());
            };
            let frame =
                frame.context("the daemon closed the connection before its work was done: see whether it was stopped, then run the command again")?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], Bytes::as_ref));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(&String::from_utf8_lossy(&line))?;
            }
        }
    })
}

fn run<T>(asking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(asking)
}

async fn send(
    args: &SocketArgs,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<Response<Incoming>> {
    let socket = args.path();
    let within = Duration::from_secs(args.timeout);
    let busy = || {
        anyhow!(
            "larder accepted the request on {} but did not answer within {} s: it is busy or stuck; \
             look at its log and its CPU time, or wait longer with --timeout SECONDS",
            socket.display(),
            within.as_secs()
        )
    };
    let sent = tokio::time::timeout(within, send_to(&socket, method, path, headers));
    let response = sent.await.map_err(|_| busy())??;
    let daemon = response
        .headers()
        .get(VERSION_HEADER)
        .and_then(|version| version.to_str().ok())
        .map(str::to_owned);
    match daemon.as_deref() {
        Some(VERSION) => {}
        Some(other) => warn(&format!(
            "the daemon is larder {other} and this command is larder {VERSION}; if the output looks wrong, use the same version"
        )),
        None => warn(&format!(
            "the daemon does not send its version, and this command is larder {VERSION}: check that {} is larder's admin socket",
            socket.display()
        )),
    }
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = tokio::time::timeout(within, response.into_body().collect());
    let body = body.await.map_err(|_| busy())??.to_bytes();
    let why = String::from_utf8_lossy(&body);
    let asked = path.split('?').next().unwrap_or(path);
    match (status, daemon) {
        (StatusCode::NOT_FOUND, Some(daemon)) if daemon != VERSION => bail!(
            "the daemon, larder {daemon}, does not know {asked}: use the larder of its version (`kubectl exec ds/larder -- larder …`), or upgrade it"
        ),
        (StatusCode::NOT_FOUND, None) => bail!(
            "the program that listens on {} does not know {asked}: it is an older larder, or another program",
            socket.display()
        ),
        _ => bail!("{}", why.trim()),
    }
}

async fn send_to(
    socket: &Path,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> anyhow::Result<Response<Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .map_err(|error| absent(socket, &error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers;
    let host = http::HeaderValue::from_static("larder");
    request.headers_mut().insert(header::HOST, host);
    sender.send_request(request).await.with_context(|| {
        format!(
            "the program that listens on {} does not answer like larder: check that --socket names larder's admin socket",
            socket.display()
        )
    })
}

/// Why a socket does not answer, and what to do about it.
fn absent(socket: &Path, error: &io::Error) -> anyhow::Error {
    let path = socket.display();
    let elsewhere = "give its path with --socket PATH or LARDER_SOCKET; in a cluster, run `kubectl exec ds/larder -- larder …`";
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "there is no admin socket at {path}: larder is not running here, or its socket is elsewhere. Start larder (`larder serve`), or {elsewhere}"
        ),
        io::ErrorKind::PermissionDenied => anyhow!(
            "permission to open the admin socket {path} is denied: only larder's own user and root may. Run the command as that user or as root (`sudo larder …`)"
        ),
        _ if fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) => {
            anyhow!("{path} is not a socket; {elsewhere}")
        }
        io::ErrorKind::ConnectionRefused => anyhow!(
            "no larder listens on {path}: the larder that made the socket was stopped or killed. Look at its log for the reason, and start it again (`larder serve`)"
        ),
        _ => anyhow!("the admin socket {path} cannot be reached: {error}; {elsewhere}"),
    }
}
