//! The names, all of them, as docs/metrics.md lists them.
//!
//! Base units, `_total` at the end of counters (which the encoder adds), and `larder_` before everything but what every
//! process has. <https://prometheus.io/docs/practices/naming/>

use prometheus_client::{metrics::info::Info, registry::Registry};

use super::{Build, Metrics};

/// One line for each metric: its name, what it tells, its handle.
macro_rules! register {
    ($registry:expr; $($name:literal, $help:literal, $metric:expr;)+) => {
        $($registry.register($name, $help, $metric.clone());)+
    };
}

/// A registry that shows `metrics`.
pub fn register(metrics: &Metrics) -> Registry {
    let mut root = Registry::default();
    let larder = root.sub_registry_with_prefix("larder");
    let (clients, access, fills) = (&metrics.clients, &metrics.access, &metrics.fills);
    register! { larder;
        "requests", "Requests on the registry port, by the tier that answered, the registry that was meant, and how they ended", clients.requests;
        "sent_bytes", "Body bytes handed to clients' connections", clients.sent_bytes;
        "first_byte_seconds", "From the request to the response's head", clients.first_byte_seconds;
        "requests_in_flight", "Requests on the registry port whose body has not ended", clients.in_flight;
        "turned_away", "Requests and connections from addresses that [registry] allow_from does not name", clients.turned_away;
        "access_verdicts", "What was known of callers and repositories before anybody was asked", access.verdicts;
        "access_proofs", "Questions to origins whether a caller may read a repository", access.proofs;
        "access_grants", "Accepted credentials that are remembered, one for each repository", access.grants;
        "revalidations", "What was found out about tags that were asked for", access.revalidations;
        "fills_started", "Fills that were begun", fills.started;
        "fills_coalesced", "Readers that joined a fill under way", fills.coalesced;
        "fills_resumed", "Fills that went on from a partial on disk", fills.resumed;
        "fills_committed", "Blobs that were verified and committed", fills.committed;
        "fills_failed", "Fills that ended without their blob", fills.failed;
        "fills_mismatched", "Times that the bytes of a fill did not have the digest", fills.mismatched;
        "fills_withdrawn", "Fills that nobody wanted any more", fills.withdrawn;
        "fills_in_flight", "Fills under way", fills.in_flight;
        "received_bodies", "Bodies, or ranges of them, of blobs and manifests that began to come, by who brought them", fills.received_bodies;
        "received_bytes", "Bytes of these", fills.received_bytes;
    }
    let (store, upstreams) = (&metrics.store, &metrics.upstreams);
    register! { larder;
        "store_blobs", "Committed blobs in the node tier", store.blobs;
        "store_size_bytes", "Bytes of committed blobs in the node tier", store.bytes;
        "store_partial_bytes", "Bytes on disk of blobs that are not whole", store.partial_bytes;
        "store_max_bytes", "The most that the node tier may hold: [store] max_size", store.max_bytes;
        "store_free_bytes", "Free bytes on the node tier's file system", store.free_bytes;
        "store_min_free_bytes", "What must stay free there: [store] min_free", store.min_free_bytes;
        "store_capacity_bytes", "Size of the node tier's file system", store.capacity_bytes;
        "store_failing", "1 while the node tier cannot be written and larder is a plain proxy", store.failing;
        "store_waiting", "1 while another larder has the store and this one is a plain proxy", store.waiting;
        "store_rotten_blobs", "Blobs found damaged on disk", store.rotten;
        "store_evicted_blobs", "Blobs that were evicted", store.evicted_blobs;
        "store_evicted_bytes", "Bytes of blobs that were evicted", store.evicted_bytes;
        "upstream_requests", "Questions to endpoints of registries", upstreams.asked;
        "upstream_endpoints", "Endpoints by how they are treated: asked, avoided after failures, or left alone as they asked", upstreams.endpoints;
        "upstream_tokens", "Tokens fetched from registries' token servers", upstreams.tokens;
        "credentials_failed", "Look-ups of the node's own credentials that failed", upstreams.credentials_failed;
        "credentials_findings", "What is wrong with the node's own credentials for a registry, counted", upstreams.credentials_findings;
        "dockerhub_ratelimit_limit", "Pulls that Docker Hub allows in its window, as it last said", upstreams.hub_limit;
        "dockerhub_ratelimit_remaining", "Pulls left of them, as Docker Hub last said, while that window lasts", upstreams.hub_remaining;
    }
    let (peers, objects, process) = (&metrics.peers, &metrics.object_store, &metrics.process);
    register! { larder;
        "members", "Members of the cluster by how they fare, this node included", peers.members;
        "peer_requests", "Questions to members", peers.asked;
        "peer_served", "Requests of members", peers.served;
        "peer_sent_bytes", "Body bytes handed to members' connections", peers.sent_bytes;
        "peer_failovers", "Streams from a member that went on with somebody else", peers.failovers;
        "peer_distrusted", "Times that a member was found to have given wrong bytes", peers.distrusted;
        "peer_turned_away", "Connections and requests on the peer port that are no member's", peers.turned_away;
        "certificate_expiry_timestamp_seconds", "When a certificate of the peer port ends; of a CA file with several, the first that does", peers.certificates;
        "object_store_requests", "What the object store was asked for", objects.asked;
        "object_store_read_bytes", "Bytes received from the object store, records included", objects.read;
        "object_store_written_bytes", "Bytes written to the object store", objects.written;
        "object_store_waiting", "Blobs and records that wait to be written to the object store", objects.waiting;
        "object_store_waiting_bytes", "Bytes that wait to be written to the object store", objects.waiting_bytes;
        "config_last_reload_successful", "1 if the configuration on disk could be used when it was last read", process.config_ok;
        "config_last_reload_success_timestamp_seconds", "When a configuration was last taken into force", process.config_read;
    }
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    larder.register("build", "The program", Info::new(build));
    register! { root;
        "process_start_time_seconds", "When the process started", process.started;
        "process_cpu_seconds", "Processor time that the process has used", process.cpu_seconds;
        "process_resident_memory_bytes", "Memory of the process that is resident", process.resident_bytes;
        "process_open_fds", "Open file descriptors", process.open_files;
        "process_max_fds", "The most that may be open", process.max_files;
    }
    root
}
