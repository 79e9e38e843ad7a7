//! `larder status`: the state of this node.

use std::time::Duration;

use http::Method;
use larder_shared::admin::{
    ClusterStatus, CopiesStatus, RuntimeStatus, Status, StoreStatus, is_tight,
};

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
    if let Some(runtime) = &status.runtime {
        say_runtime(runtime);
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
    // An older daemon does not send the bytes that `min_free` stands for.
    let (most, min_free) = match store.capacity_bytes {
        Some(capacity) => (
            capacity,
            format!(", min_free is {}", size(store.min_free_bytes)),
        ),
        None => (store.max_bytes, String::new()),
    };
    line(
        "store",
        &format!(
            "{}: {}, {} of at most {}; {} free on the file system{min_free}",
            store.path,
            count(store.blobs, "blob"),
            size(store.bytes),
            size(most),
            size(store.free_bytes)
        ),
    );
    if store.capacity_bytes == Some(0) {
        remark(
            "it keeps nothing, because other files fill this file system: make room, move [store] path to another one, or lower min_free",
        );
    }
    if store.state != "ready" {
        say(&format!("           {}", styled(BAD, &store.state)));
    }
    if store.in_use_blobs > 0 {
        let (blobs, bytes) = (count(store.in_use_blobs, "blob"), size(store.in_use_bytes));
        say(&format!("           {bytes} in use by containers, {blobs}"));
    }
    if let Some(room) = store.room_bytes {
        let kept = size(store.kept_bytes);
        let text = format!(
            "{kept} stay, pinned or in use; {} is the room for new content, and what does not fit is passed on",
            size(room)
        );
        if is_tight(store.kept_bytes, room) {
            remark(&text);
        } else {
            say(&format!("           {text}"));
        }
    }
    if store.partial_bytes > 0 {
        let partial = size(store.partial_bytes);
        say(&format!("           {partial} of partial blobs"));
    }
}

fn say_runtime(runtime: &RuntimeStatus) {
    let name = runtime.runtime.as_deref().unwrap_or("not known");
    let users = count(runtime.users, "container");
    let known = match runtime.state.as_str() {
        "fresh" => format!("what it uses is known: {users}"),
        state => format!("{users} when it was last known, the watcher's file is {state}"),
    };
    line("runtime", &format!("{name}, {known}; {}", runtime.file));
    if let Some(why) = &runtime.why {
        let since = runtime.unknown_seconds.map(Duration::from_secs);
        let since = since.map_or_else(String::new, |since| format!(", for {}", duration(since)));
        remark(&format!("what is in use is not known{since}: {why}"));
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
    } else if let Some(copies) = &cluster.copies {
        say_copies(copies);
    }
}

/// Warns of blobs that lack copies. Private content does not count: its copies are the operator's choice.
fn say_copies(copies: &CopiesStatus) {
    if copies.held_back {
        remark("more than a third of the members is missing: no copies are made");
    }
    let lacking = copies.lacking.iter().filter(|(why, _)| *why != "private");
    let lacking: u64 = lacking.map(|(_, count)| count).sum();
    if lacking > 0 {
        remark(&format!(
            "{} on fewer than {} members, as far as this node decides",
            count(lacking, "blob"),
            copies.wanted
        ));
    }
}
