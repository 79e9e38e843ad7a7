//! The names and help texts of all metrics, as docs/metrics.md lists them.
//!
//! Names use base units. Counters end in `_total`, which the encoder adds, and all names but the standard `process_`
//! ones begin with `larder_`. <https://prometheus.io/docs/practices/naming/>

use prometheus_client::{metrics::info::Info, registry::Registry};

use super::{Build, Metrics};

/// One line for each metric: its name, its help text, its handle.
macro_rules! register {
    ($registry:expr; $($name:literal, $help:literal, $metric:expr;)+) => {
        $($registry.register($name, $help, $metric.clone());)+
    };
}

/// Registers all `metrics` with a new registry.
pub fn register(metrics: &Metrics) -> Registry {
    let mut root = Registry::default();
    let larder = root.sub_registry_with_prefix("larder");
    let (clients, access, fills) = (&metrics.clients, &metrics.access, &metrics.fills);
    register! { larder;
        "requests", "Requests on the registry port, by the tier that answered, the registry of the image, and the outcome", clients.requests;
        "sent_bytes", "Body bytes handed to clients' connections", clients.sent_bytes;
        "first_byte_seconds", "Time from the request to the head of the response", clients.first_byte_seconds;
        "requests_in_flight", "Requests on the registry port whose body has not ended", clients.in_flight;
        "turned_away", "Requests and connections refused because [registry] allow_from does not name their address", clients.turned_away;
        "access_verdicts", "Cached verdicts on clients' access to repositories", access.verdicts;
        "access_proofs", "Requests to origins that ask whether a client may read a repository", access.proofs;
        "access_grants", "Cached rights of credentials, one for each repository", access.grants;
        "revalidations", "Revalidations of requested tags", access.revalidations;
        "fills_started", "Fills started", fills.started;
        "fills_coalesced", "Readers that joined a fill in flight", fills.coalesced;
        "fills_resumed", "Fills resumed from a partial download on disk", fills.resumed;
        "fills_committed", "Blobs verified and committed", fills.committed;
        "fills_failed", "Fills that ended without their blob", fills.failed;
        "fills_mismatched", "Fills whose bytes did not match the digest", fills.mismatched;
        "fills_withdrawn", "Fills stopped because no reader was left", fills.withdrawn;
        "fills_in_flight", "Fills in flight", fills.in_flight;
        "received_bodies", "Bodies, and ranges of bodies, of blobs and manifests that began to arrive, by source", fills.received_bodies;
        "received_bytes", "Bytes received of blobs and manifests, by source", fills.received_bytes;
    }
    let (store, upstreams, adoption) = (&metrics.store, &metrics.upstreams, &metrics.adoption);
    register! { larder;
        "store_blobs", "Committed blobs in the node tier", store.blobs;
        "store_size_bytes", "Bytes of committed blobs in the node tier", store.bytes;
        "store_partial_bytes", "Bytes on disk of partial blobs", store.partial_bytes;
        "store_max_bytes", "Bytes that the node tier may hold: [store] max_size", store.max_bytes;
        "store_free_bytes", "Free bytes on the node tier's file system", store.free_bytes;
        "store_min_free_bytes", "Bytes that must stay free on the node tier's file system: [store] min_free", store.min_free_bytes;
        "store_capacity_bytes", "Size of the node tier's file system", store.capacity_bytes;
        "store_in_use_bytes", "Bytes of blobs that containers of this node use, as far as the runtime's watcher tells", store.in_use_bytes;
        "store_kept_bytes", "Bytes that are never evicted: pinned, or in use here and whole nowhere else", store.kept_bytes;
        "store_failing", "1 while the node tier cannot be written and larder is a plain proxy", store.failing;
        "store_waiting", "1 while another larder holds the store and this one is a plain proxy", store.waiting;
        "store_rotten_blobs", "Blobs found damaged on disk", store.rotten;
        "store_evicted_blobs", "Blobs evicted", store.evicted_blobs;
        "store_evicted_bytes", "Bytes of evicted blobs", store.evicted_bytes;
        "runtime_state", "1 for the state of the watcher's file: off, fresh, old, unreadable, newer", metrics.runtime.states;
        "runtime_report_age_seconds", "Age of the latest good report of the runtime's watcher", metrics.runtime.report_age;
        "adoption_questions", "Questions to origins whether a repository holds what the container runtime has", adoption.asked;
        "adoption_guesses", "What the container runtime's names and labels nominate: repositories and what they may hold", adoption.guesses;
        "runtime_content_blobs", "Blobs in the container runtime's content store", adoption.blobs;
        "runtime_content_bytes", "Bytes of blobs in the container runtime's content store", adoption.bytes;
        "ready_layers", "Ready files of layers: offered, in use by snapshots, or set aside on their way out", metrics.layers.files;
        "ready_layers_bytes", "Bytes of ready files of layers", metrics.layers.bytes;
        "lazy_images", "Images that were about to start, by what became of it", metrics.layers.images;
        "lazy_layers", "Layers that are mounted and not whole here", metrics.layers.streaming;
        "lazy_reads", "Reads of layers that are not whole here", metrics.layers.reads;
        "ready_layers_made", "Layers whose ready file was offered, refused, or failed", metrics.layers.work;
        "ready_layers_removed", "Ready files of layers that were removed", metrics.layers.removed;
        "ready_layers_removed_bytes", "Bytes of ready files that were removed", metrics.layers.removed_bytes;
        "layer_indexes", "Indexes of layers: made here from the whole layer, or elsewhere and not compared with it yet", metrics.layers.indexes;
        "layer_indexes_bytes", "Bytes of indexes of layers", metrics.layers.indexes_bytes;
        "layer_index_work", "Indexes of layers that were built, refused, failed, fetched, not believed, proven, or disproved", metrics.layers.index_work;
        "upstream_requests", "Requests to endpoints of registries", upstreams.asked;
        "upstream_endpoints", "Endpoints by state: ok, avoided after failures, or silent because the registry asked for it", upstreams.endpoints;
        "upstream_tokens", "Tokens fetched from registries' token servers", upstreams.tokens;
        "credentials_failed", "Look-ups of the node's own credentials that failed", upstreams.credentials_failed;
        "credentials_findings", "Problems with the node's own credentials for a registry", upstreams.credentials_findings;
        "dockerhub_ratelimit_limit", "Pulls that Docker Hub allows in its window, as last reported", upstreams.hub_limit;
        "dockerhub_ratelimit_remaining", "Pulls left in Docker Hub's window, as last reported; absent after the window ends", upstreams.hub_remaining;
    }
    let (peers, objects, process) = (&metrics.peers, &metrics.object_store, &metrics.process);
    let copies = &metrics.copies;
    register! { larder;
        "members", "Members of the cluster by state, this node included", peers.members;
        "peer_requests", "Requests to members", peers.asked;
        "peer_served", "Requests from members", peers.served;
        "peer_sent_bytes", "Body bytes handed to members' connections", peers.sent_bytes;
        "peer_failovers", "Streams from a member that continued from another source", peers.failovers;
        "peer_distrusted", "Times that a member was distrusted because it sent wrong bytes", peers.distrusted;
        "peer_turned_away", "Connections and requests refused on the peer port because they are not a member's", peers.turned_away;
        "copies_lacking", "Digests that too few members hold and for which this node decides, by the reason", copies.lacking;
        "copies_known", "Digests whose holders this node knows as a keeper", copies.known;
        "copies_waiting", "Copies that this node has yet to fetch", copies.waiting;
        "copies_held_back", "1 while more than a third of the members is missing and no copies are made", copies.held_back;
        "copies_taken", "Copies that this node was to fetch, by how that ended", copies.taken;
        "copies_received_bytes", "Bytes received for copies", copies.received;
        "warm_images", "Images of a warm set on this node, by state", metrics.warm.images;
        "warm_bytes", "Bytes of a warm set's images that are on this node", metrics.warm.bytes;
        "warm_listed_seconds", "Age of the oldest answer that a warm set goes by", metrics.warm.listed;
        "warm_lists", "Refreshes of repositories' lists of tags, by how they ended", metrics.lists.asked;
        "certificate_expiry_timestamp_seconds", "When a certificate of the peer port expires; for a CA file with several, the earliest", peers.certificates;
        "object_store_requests", "Requests to the object store", objects.asked;
        "object_store_read_bytes", "Bytes received from the object store, records included", objects.read;
        "object_store_written_bytes", "Bytes written to the object store", objects.written;
        "object_store_waiting", "Blobs and records that wait to be written to the object store", objects.waiting;
        "object_store_waiting_bytes", "Bytes that wait to be written to the object store", objects.waiting_bytes;
        "config_last_reload_successful", "1 if the configuration on disk was valid when it was last read", process.config_ok;
        "config_last_reload_success_timestamp_seconds", "When a configuration was last applied", process.config_read;
    }
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    larder.register("build", "The version of the program", Info::new(build));
    register! { root;
        "process_start_time_seconds", "When the process started", process.started;
        "process_cpu_seconds", "CPU time that the process has used", process.cpu_seconds;
        "process_resident_memory_bytes", "Resident memory of the process", process.resident_bytes;
        "process_open_fds", "Open file descriptors", process.open_files;
        "process_max_fds", "Limit of open file descriptors", process.max_files;
    }
    root
}
