//! Whether larder answers on its ports.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use larder_shared::admin::{Check, Finding, Status};

/// A port that takes longer does not answer.
const WITHIN: Duration = Duration::from_secs(3);

/// Asks the ports that the daemon has bound, and the addresses in `hosts.toml` files.
pub fn look(status: &Status, hosts: &[String]) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bound = reachable(&status.listen.registry);
        let mut places = vec![bound.clone()];
        // In a pod, loopback is not the node's: only the pod's own port can be tried.
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        places.extend(hosts.iter().filter(|at| **at != bound && !in_pod).cloned());
        let mut findings = Vec::new();
        for place in places {
            findings.push(registry(&place, place == bound).await);
        }
        if let Some(telemetry) = &status.listen.telemetry {
            findings.push(health(&reachable(telemetry)).await);
        }
        Ok(findings)
    })
}

/// The address to connect to: loopback for a port that is bound to all addresses.
fn reachable(bound: &str) -> String {
    match bound.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() {
                "127.0.0.1"
            } else {
                "[::1]"
            };
            format!("{loopback}:{}", address.port())
        }
        _ => bound.to_owned(),
    }
}

async fn registry(place: &str, own: bool) -> Finding {
    let named = if own {
        format!("the registry port {place}")
    } else {
        format!("{place}, which hosts.toml names,")
    };
    let fix = if own {
        "look at the daemon's log, and at firewall rules for loopback"
    } else {
        "run `larder install` with the --address of the daemon's registry port, or let the daemon listen there ([registry] listen)"
    };
    match get(place, "/v2/").await {
        Err(error) => Finding::error(
            Check::Ports,
            format!("{named} does not answer: {error:#}"),
            fix,
        ),
        Ok((StatusCode::FORBIDDEN, _)) => Finding::error(
            Check::Ports,
            format!("{named} refuses this node"),
            "add `node`, or the address from which this node connects, to [registry] allow_from; if hosts.toml has a name instead of an address, add that name to [registry] allow_hosts",
        ),
        Ok((_, headers)) if is_larder(&headers) => {
            Finding::ok(Check::Ports, format!("larder answers at {place}"))
        }
        Ok((status, _)) => Finding::error(
            Check::Ports,
            format!(
                "{named} answers {status}, but it is not larder: another program serves images there"
            ),
            "find the program that listens there (ss -ltnp) and stop it, or move larder to another port; pulls go through it until then",
        ),
    }
}

/// Whether a challenge is larder's: no other registry names `larder` as the service.
fn is_larder(headers: &HeaderMap) -> bool {
    let challenge = headers.get(header::WWW_AUTHENTICATE);
    challenge.is_some_and(|c| c.to_str().is_ok_and(|c| c.contains("service=\"larder\"")))
}

async fn health(place: &str) -> Finding {
    match get(place, "/livez").await {
        Ok((StatusCode::OK, _)) => {
            Finding::ok(Check::Ports, format!("the telemetry port {place} answers"))
        }
        Ok((status, _)) => Finding::warning(
            Check::Ports,
            format!("the telemetry port {place} answers {status}"),
            "find the program that listens there (ss -ltnp), and stop it or change [telemetry] listen",
        ),
        Err(error) => Finding::warning(
            Check::Ports,
            format!("the telemetry port {place} does not answer: {error:#}"),
            "look at the daemon's log, and at firewall rules for loopback",
        ),
    }
}

async fn get(place: &str, path: &str) -> anyhow::Result<(StatusCode, HeaderMap)> {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(place).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(header::HOST, place)
            .header(
                header::USER_AGENT,
                concat!("larder/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        Ok((response.status(), response.headers().clone()))
    };
    tokio::time::timeout(WITHIN, asked)
        .await
        .with_context(|| format!("no answer within {} s", WITHIN.as_secs()))?
}
