//! The sections except for the chart and the images.

use larder_shared::admin::{
    ClusterStatus, Diagnosis, Endpoint, FillStatus, Finding, ObjectStoreStatus, RateLimit,
    Severity, Upstream,
};
use maud::{Markup, html};

use super::{
    Checked, View,
    words::{ago, count, counted, lasting, percent, size},
};

/// The most registries that are shown.
const UPSTREAMS: usize = 50;

/// The most members that are shown; members in trouble come first.
const MEMBERS: usize = 40;

/// The state of the node in a line.
pub fn state(view: &View) -> Markup {
    let status = &view.status;
    let ready = status.store.state == "ready";
    html! {
        p.state {
            @if ready {
                span.pill.ok { "Serving" }
            } @else {
                span.pill.bad { "Without its disk" }
            }
            " larder " (status.version) ", up " (lasting(status.uptime_seconds))
        }
        @if !ready {
            p.notice.bad { "Store: " (status.store.state) "." }
        }
    }
}

/// The main figures.
pub fn glance(view: &View) -> Markup {
    let store = &view.status.store;
    let held = store.bytes + store.partial_bytes;
    let most = store.capacity_bytes.unwrap_or(store.max_bytes);
    let total = &view.total;
    let requests = total.hits + total.misses;
    let saved = (total.bytes() > 0).then(|| total.saved_bytes() as f64 / total.bytes() as f64);
    html! {
        h2.hidden { "At a glance" }
        dl.tiles {
            div {
                dt { "Held on this node" }
                dd.figure { (size(held)) }
                dd {
                    meter min="0" max=(most.max(1)) value=(held) high=(most / 20 * 19)
                        aria-label="How full the node tier is" {}
                    "of at most " (size(most)) "; " (counted(store.blobs, "blob", "blobs")) ", "
                    (size(store.free_bytes)) " free on the disk"
                }
            }
            div {
                dt { "Hit ratio" }
                dd.figure { (total.hit_ratio().map_or("-".to_owned(), percent)) }
                dd {
                    @if requests == 0 { "nothing was pulled since the start" } @else {
                        (count(total.hits)) " of " (counted(requests, "request", "requests"))
                        " answered from what was here"
                    }
                }
            }
            div {
                dt { "Saved" }
                dd.figure { (size(total.saved_bytes())) }
                dd {
                    @match saved {
                        None => "bytes that no registry had to send",
                        Some(part) => {
                            (percent(part)) " of what was sent: " (size(total.node_bytes)) " from this node"
                            @if view.status.cluster.is_some() || view.status.object_store.is_some() {
                                ", " (size(total.cluster_bytes)) " from the cluster"
                            }
                        }
                    }
                }
            }
            div {
                dt { "From registries" }
                dd.figure { (size(total.upstream_bytes)) }
                dd { "sent to clients while it was fetched" }
            }
        }
    }
}

/// What doctor found.
pub fn findings(checked: &Checked) -> Markup {
    html! {
        section.card aria-labelledby="findings-title" {
            h2 #findings-title { "Findings" }
            @match checked {
                Checked::Looking => p.quiet { "The checks are under way." },
                Checked::Found { diagnosis, seconds } => (found(diagnosis, *seconds)),
            }
        }
    }
}

fn found(diagnosis: &Diagnosis, seconds: u64) -> Markup {
    let wrong = diagnosis.wrong();
    let checks = diagnosis.findings.len() as u64;
    html! {
        @if wrong.is_empty() {
            p { span.pill.ok { "All well" } " " (counted(checks, "check", "checks")) ", " (ago(seconds)) }
        } @else {
            ul.findings {
                @for finding in &wrong { (one(finding)) }
            }
            p.quiet { (counted(checks, "check", "checks")) ", " (ago(seconds)) }
        }
        @if wrong.len() < diagnosis.findings.len() {
            details {
                summary { "What is as it should be" }
                ul.findings {
                    @for finding in diagnosis.findings.iter().filter(|f| f.severity == Severity::Ok) {
                        (one(finding))
                    }
                }
            }
        }
    }
}

fn one(finding: &Finding) -> Markup {
    let (class, word) = match finding.severity {
        Severity::Ok => ("ok", "ok"),
        Severity::Warning => ("warn", "warning"),
        Severity::Error => ("bad", "error"),
    };
    html! {
        li {
            span.pill.(class) { (word) }
            div {
                p { b { (finding.check) } " " (finding.found) }
                @if !finding.fix.is_empty() { p.quiet { (finding.fix) } }
            }
        }
    }
}

/// What is being downloaded.
pub fn fills(fills: &[FillStatus]) -> Markup {
    let mut fills: Vec<&FillStatus> = fills.iter().collect();
    fills.sort_by_key(|fill| fill.digest.hex());
    html! {
        section.card aria-labelledby="fills-title" {
            h2 #fills-title { "Downloads under way" span.tally { (count(fills.len() as u64)) } }
            @if fills.is_empty() {
                p.quiet { "None. What is pulled next and is not here shows up while it comes." }
            } @else {
                ul.fills { @for fill in fills { (under_way(fill)) } }
            }
        }
    }
}

fn under_way(fill: &FillStatus) -> Markup {
    let digest = fill.digest.to_string();
    let hex = fill.digest.hex();
    let present = fill.present_bytes;
    let readers = counted(fill.readers as u64, "reader", "readers");
    html! {
        li id={"fill-" (hex)} data-bytes=(present) data-size=[fill.size_bytes] {
            span.what {
                @if let Some(repository) = &fill.repository { (repository) " " }
                code.digest title=(digest) { (&hex[..hex.len().min(12)]) }
            }
            @match fill.size_bytes {
                Some(whole) => progress max=(whole.max(1)) value=(present) aria-label={"Download of " (digest)} {},
                None => progress aria-label={"Download of " (digest)} {},
            }
            span.amount {
                (size(present))
                @if let Some(whole) = fill.size_bytes { " of " (size(whole)) }
                span.rate data-own {}
            }
            span.quiet { (readers) }
        }
    }
}

pub fn upstreams(upstreams: &[Upstream]) -> Markup {
    html! {
        section.card aria-labelledby="upstreams-title" {
            h2 #upstreams-title { "Registries" span.tally { (count(upstreams.len() as u64)) } }
            @if upstreams.is_empty() {
                p.quiet { "None yet: none is configured, and nothing was pulled." }
            } @else {
                table {
                    thead { tr {
                        th scope="col" { "Registry" }
                        th scope="col" { "Asked at, in this order" }
                        th scope="col" { "Requests left" }
                        th.number scope="col" { "Repositories" }
                    } }
                    tbody { @for upstream in upstreams.iter().take(UPSTREAMS) { (one_upstream(upstream)) } }
                }
                @if upstreams.len() > UPSTREAMS {
                    p.quiet { "and " (count((upstreams.len() - UPSTREAMS) as u64)) " more: " code { "larder upstreams" } }
                }
            }
        }
    }
}

fn one_upstream(upstream: &Upstream) -> Markup {
    let limits: Vec<&RateLimit> = upstream
        .endpoints
        .iter()
        .flat_map(|e| &e.rate_limits)
        .collect();
    html! {
        tr {
            th scope="row" {
                b { (upstream.registry) }
                @if upstream.access == "shared" { span.quiet.block { "the node's credentials, for everyone" } }
            }
            td data-label="Asked at" {
                ol.endpoints { @for endpoint in &upstream.endpoints { (one_endpoint(endpoint)) } }
                @if let Some(identity) = &upstream.identity { p.quiet { (identity) } }
                @for finding in &upstream.findings { p.notice.warn { (finding) } }
            }
            td data-label="Requests left" {
                @if limits.is_empty() { span.quiet { "not told" } }
                @for limit in limits {
                    span.block {
                        (count(limit.remaining)) " of " (count(limit.limit))
                        span.quiet { @if limit.credential { " with a credential" } @else { " anonymously" } }
                    }
                }
            }
            td.number data-label="Repositories" { (count(upstream.repositories)) }
        }
    }
}

fn one_endpoint(endpoint: &Endpoint) -> Markup {
    let class = if endpoint.state == "ok" { "ok" } else { "warn" };
    html! {
        li {
            (endpoint.url) " "
            span.pill.(class) {
                (endpoint.state)
                @if let Some(left) = endpoint.silent_seconds { " for " (lasting(left)) }
            }
        }
    }
}

/// The other nodes and the object store; empty where there are neither.
pub fn cluster(view: &View) -> Markup {
    let status = &view.status;
    html! {
        @if let Some(cluster) = &status.cluster { (members(cluster)) }
        @if let Some(store) = &status.object_store { (objects(store)) }
    }
}

fn members(cluster: &ClusterStatus) -> Markup {
    let mut members: Vec<_> = cluster.members.iter().collect();
    members.sort_by(|a, b| {
        let key = |m: &larder_shared::admin::MemberStatus| (m.state == "ok", !m.own);
        key(a).cmp(&key(b)).then_with(|| a.address.cmp(&b.address))
    });
    let well = members.iter().filter(|member| member.state == "ok").count();
    html! {
        section.card aria-labelledby="members-title" {
            h2 #members-title { "Nodes" span.tally { (count(members.len() as u64)) } }
            p {
                (count(well as u64)) " of " (counted(members.len() as u64, "node", "nodes")) " well; "
                (size(cluster.received_bytes)) " received from the others, " (size(cluster.sent_bytes)) " sent to them"
                @if cluster.distrusted > 0 {
                    "; wrong bytes were given " (counted(cluster.distrusted, "time", "times"))
                }
            }
            ul.members {
                @for member in members.iter().take(MEMBERS) {
                    @let class = match &*member.state { "ok" => "ok", "distrusted" => "bad", _ => "warn" };
                    li { code { (member.address) } " " span.pill.(class) { (member.state) }
                        @if member.own { " " span.quiet { "this node" } } }
                }
            }
            @if members.len() > MEMBERS { p.quiet { "and " (count((members.len() - MEMBERS) as u64)) " more" } }
        }
    }
}

fn objects(store: &ObjectStoreStatus) -> Markup {
    html! {
        section.card aria-labelledby="objects-title" {
            h2 #objects-title { "Object store" }
            p { code { (store.url) } }
            p {
                (count(store.written)) " written since the start, " (count(store.already_there)) " there already, "
                (count(store.waiting)) " waiting (" (size(store.waiting_bytes)) "), " (count(store.dropped)) " given up"
            }
            @if let Some(error) = &store.last_error { p.notice.warn { "Last failure: " (error) } }
        }
    }
}

/// Ports and paths of this node.
pub fn footer(view: &View) -> Markup {
    let status = &view.status;
    html! {
        dl {
            div { dt { "Registry port" } dd { code { (status.listen.registry) } } }
            @if let Some(peers) = &status.listen.peers { div { dt { "Peer port" } dd { code { (peers) } } } }
            div { dt { "Store" } dd { code { (status.store.path) } } }
            div { dt { "Metrics" } dd { a href="metrics" { "/metrics" } } }
        }
        p.quiet { "This page is read-only. To change something: " code { "larder --help" } }
    }
}
