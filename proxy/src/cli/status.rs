//! `larder status` and `larder peers`: this node and the others at a glance.

use http::Method;
use larder_shared::admin::{ClusterStatus, Status};

use super::{
    show::{say, size},
    socket::{SocketArgs, ask, read},
};

#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = ask(&args.socket, Method::GET, "/status")?;
    if args.socket.json {
        say(&text);
        return Ok(0);
    }
    let status: Status = read(&text)?;
    say(&format!(
        "larder {}, up {} s",
        status.version, status.uptime_seconds
    ));
    say(&format!("registry   http://{}", status.listen.registry));
    if let Some(telemetry) = &status.listen.telemetry {
        say(&format!("telemetry  http://{telemetry}"));
    }
    let store = &status.store;
    say(&format!(
        "store      {}: {} blobs, {} of at most {}, {} free on the file system",
        store.path,
        store.blobs,
        size(store.bytes),
        size(store.max_bytes),
        size(store.free_bytes)
    ));
    if store.partial_bytes > 0 {
        say(&format!(
            "           {} of blobs that are not whole",
            size(store.partial_bytes)
        ));
    }
    say(&format!(
        "served     {} requests: {} from this node, {} from other nodes, {} from upstreams",
        status.served.requests,
        size(status.served.node_bytes),
        size(status.served.cluster_bytes),
        size(status.served.upstream_bytes)
    ));
    for upstream in &status.upstreams {
        say(&format!(
            "upstream   {} at {}",
            upstream.registry,
            upstream.endpoints.join(", then ")
        ));
        for finding in &upstream.findings {
            say(&format!("           {finding}"));
        }
    }
    if let Some(cluster) = &status.cluster {
        say_cluster(cluster);
    }
    if let Some(store) = &status.object_store {
        say(&format!(
            "objects    {}: {} written, {} there already, {} wait ({}), {} given up",
            store.url,
            store.written,
            store.already_there,
            store.waiting,
            size(store.waiting_bytes),
            store.dropped
        ));
        if let Some(error) = &store.last_error {
            say(&format!("           last failure: {error}"));
        }
    }
    for fill in &status.fills {
        let of = fill.size_bytes.map_or("unknown".to_owned(), size);
        say(&format!(
            "fill       {}: {} of {of}, {} readers",
            fill.digest,
            size(fill.present_bytes),
            fill.readers
        ));
    }
    Ok(0)
}

fn say_cluster(cluster: &ClusterStatus) {
    let well = cluster.members.iter().filter(|m| m.state == "ok").count();
    say(&format!(
        "cluster    {} members, {well} of them well: {} came from others, {} went to them",
        cluster.members.len(),
        size(cluster.received_bytes),
        size(cluster.sent_bytes)
    ));
    if !cluster.members.iter().any(|member| member.own) {
        say("           this node is not among them: set `advertise` in [cluster]");
    }
}

/// The members, one a line.
pub fn peers(args: &StatusArgs) -> anyhow::Result<u8> {
    let text = ask(&args.socket, Method::GET, "/status")?;
    let status: Status = read(&text)?;
    if args.socket.json {
        say(&serde_json::to_string(&status.cluster)?);
        return Ok(0);
    }
    let Some(cluster) = &status.cluster else {
        say("no peers are configured: [cluster] listen and members say who they are");
        return Ok(0);
    };
    for member in &cluster.members {
        let own = if member.own { "  this node" } else { "" };
        say(&format!("{:<24} {}{own}", member.address, member.state));
    }
    say_cluster(cluster);
    Ok(0)
}
