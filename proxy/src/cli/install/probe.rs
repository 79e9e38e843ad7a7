//! Whether larder answers at the address that the runtime will ask.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header::WWW_AUTHENTICATE};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use url::Url;

/// The time between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// The program that answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeAnswer {
    /// larder itself.
    Larder,
    /// Another program, by the status of its answer.
    Other(u16),
    /// No program answered, and why.
    None(String),
}

/// Asks `address` for `/v2/` until it answers, for `patience` at most.
pub(super) fn probe(address: &str, patience: Duration) -> anyhow::Result<ProbeAnswer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let url = Url::parse(address)?;
    runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let why = match tokio::time::timeout_at(deadline, ask(&url)).await {
                Ok(Ok(response)) => return Ok(answer(&response)),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            if tokio::time::Instant::now() + PAUSE >= deadline {
                return Ok(ProbeAnswer::None(why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

async fn ask(url: &Url) -> anyhow::Result<Response<Incoming>> {
    let port = url.port_or_known_default().unwrap_or(80);
    let host = url.host_str().unwrap_or_default();
    // An IPv6 address has brackets in a URL, but must have none when larder connects.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = tokio::net::TcpStream::connect((name, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/v2/")
        .header("host", format!("{host}:{port}"))
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// Recognizes larder by its challenge, which names `larder` as the service.
fn answer<B>(response: &Response<B>) -> ProbeAnswer {
    let mut challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let larder = challenges.any(|challenge| {
        let text = challenge.to_str().unwrap_or_default();
        text.contains("service=\"larder\"")
    });
    if larder {
        ProbeAnswer::Larder
    } else {
        ProbeAnswer::Other(response.status().as_u16())
    }
}

/// What to do about an answer that did not come from larder.
pub(super) fn fix(answer: &ProbeAnswer, address: &str) -> Option<String> {
    match answer {
        ProbeAnswer::Larder => None,
        ProbeAnswer::Other(status) => Some(format!(
            "{address} answers with {status}, but it is not larder. The runtime will ask it for every image: find the program \
             that listens there (`ss -ltnp`) and stop it, or give larder another port and name it with --address"
        )),
        ProbeAnswer::None(why) => Some(format!(
            "larder does not answer at {address} ({why}), so the runtime pulls from the registries. Check that larder is running \
             and ready on this node. If it is: a host port needs the CNI's portmap plug-in (`ls /etc/cni/net.d`); without \
             it use hostNetwork. In a container, 127.0.0.1 is the node's only with hostNetwork"
        )),
    }
}
