//! `larder status`: the state of this node.

use std::time::Duration;

use http::Method;
use larder_shared::admin::{ClusterStatus, Status, StoreStatus};

use super::{
    show::{BAD, BOLD, WARNING, count, duration, percent, say, say_json, size, styled},
    socket::{SocketArgs, asked},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder status
  larder status --json | jq '.served | {node_bytes, cluster_bytes, upstream_bytes}'
  kubectl exec ds/larder -- larder status")]
pub struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

/// A line: its subject, then the text.
fn line(about: &str, text: &str) {
    say(&format!(
        "{} {text}",
        styled(BOLD, format_args!("{about:<10}"))
    ));
}

/// A warning below such a line.
fn remark(text: &str) {
    say(&format!("           {}", styled(WARNING, text)));
}

pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let status: Status = asked(&args.socket, Method::GET, "/status")?;
    if args.socket.json {
        say_json(&status)?;
        return Ok(0);
    }
    let up = duration(Duration::from_secs(status.uptime_seconds));
    line("larder", &format!("{}, up {up}", status.version));
    line("registry", &format!("http://{}", status.listen.registry));
    if let Some(telemetry) = &status.listen.telemetry {
        line("telemetry", &format!("http://{telemetry}"));
    }
    if let Some(peers) = &status.listen.peers {
        line("peers", peers);
    }
    say_store(&status.store);
    let served = &status.served;
    line(
        "served",
        &format!(
            "{}: {} from this node, {} from other nodes, {} from upstreams",
            count(served.requests, "request"),
            size(served.node_bytes),
            size(served.cluster_bytes),
            size(served.upstream_bytes)
        ),
    );
    for upstream in &status.upstreams {
        line(
            "upstream",
            &format!(
                "{} at {}",
                upstream.registry,
                upstream.endpoints.join(", then ")
            ),
        );
        for finding in &upstream.findings {
            remark(finding);
        }
    }
    if let Some(cluster) = &status.cluster {
        say_cluster(cluster);
    }
    if let Some(store) = &status.object_store {
        line(
            "objects",
            &format!(
                "{}: {} written, {} there already, {} waiting ({}), {} dropped",
                store.url,
                store.written,
                store.already_there,
                store.waiting,
                size(store.waiting_bytes),
                store.dropped
            ),
        );
        if let Some(error) = &store.last_error {
            remark(&format!("last failure: {error}"));
        }
    }
    for fill in &status.fills {
        let (of, share) = match fill.size_bytes {
            Some(all) => (size(all), percent(fill.present_bytes, all)),
            None => ("unknown".to_owned(), "starting".to_owned()),
        };
        line(
            "fill",
            &format!(
                "{}: {} of {of} ({share}), {}",
                fill.digest,
                size(fill.present_bytes),
                count(fill.readers as u64, "reader")
            ),
        );
    }
    Ok(0)
}

fn say_store(store: &StoreStatus) {
    line(
        "store",
        &format!(
            "{}: {}, {} of at most {}, {} free on the file system",
            store.path,
            count(store.blobs, "blob"),
            size(store.bytes),
            size(store.max_bytes),
            size(store.free_bytes)
        ),
    );
    if store.state != "ready" {
        say(&format!("           {}", styled(BAD, &store.state)));
    }
    if store.partial_bytes > 0 {
        let partial = size(store.partial_bytes);
        say(&format!("           {partial} of partial blobs"));
    }
}

/// Prints the cluster in a line.
pub fn say_cluster(cluster: &ClusterStatus) {
    let well = cluster.members.iter().filter(|m| m.state == "ok").count();
    line(
        "cluster",
        &format!(
            "{}, {well} of them ok: {} received from others, {} sent to them",
            count(cluster.members.len() as u64, "member"),
            size(cluster.received_bytes),
            size(cluster.sent_bytes)
        ),
    );
    if !cluster.members.iter().any(|member| member.own) {
        remark("this node is not among the members: set `advertise` in [cluster]");
    }
}
