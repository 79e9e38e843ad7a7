//! What larder knows of the container runtime, and how much room its use leaves for new content.

use larder_shared::admin::{Check, Finding, is_tight};

use crate::{
    pull::Pull,
    runtime::{State, Unreadable},
};

pub(super) fn look(pull: &Pull) -> [Finding; 2] {
    [watcher(pull), room(pull)]
}

fn watcher(pull: &Pull) -> Finding {
    let known = pull.runtime.known();
    let mend = match &known.state {
        State::Off => {
            return Finding::ok(
                Check::Watcher,
                "no watcher reports what the container runtime uses: what runs is kept for its ttl after the last pull",
            );
        }
        State::Fresh => {
            let users = known.report().map_or(0, |report| report.users.len());
            let found = format!(
                "what the container runtime uses is known: {users} containers, sandboxes and volumes"
            );
            return Finding::ok(Check::Watcher, found);
        }
        State::Newer { .. } => "run the same larder for the daemon and for the watcher",
        State::Unreadable(Unreadable::Foreign) => {
            "let the watcher of this node write into a directory that no other node shares: [runtime] file"
        }
        State::Unreadable(Unreadable::Refused(_) | Unreadable::NoFile) => {
            "let larder's user read the file that [runtime] file names"
        }
        State::Old | State::Unreadable(_) => {
            "look whether `larder runtime` runs, and at its log; without a watcher say [runtime] file = \"off\""
        }
    };
    let why = pull.runtime.why_unknown().unwrap_or_default();
    let since = pull.runtime.unknown_for().map(|age| age.as_secs());
    let since = since.map_or_else(String::new, |since| format!(" for {since} s"));
    let found = format!(
        "what the container runtime uses has not been known{since}: {why}. What was in use then is kept for its ttl"
    );
    Finding::warning(Check::Watcher, found, mend)
}

/// Whether blobs that are never evicted fill the tier: pinned ones, and ones in use that are nowhere else. A new blob
/// is then passed on and not kept.
fn room(pull: &Pull) -> Finding {
    let room = pull.store.room();
    let size = |bytes| bytesize::ByteSize::b(bytes).display().iec().to_string();
    let (kept, left) = (size(room.kept), size(room.left()));
    if !is_tight(room.kept, room.left()) {
        return Finding::ok(Check::Room, format!("{kept} stay, pinned or in use"));
    }
    let in_use = size(pull.runtime.in_use().bytes);
    Finding::warning(
        Check::Room,
        format!(
            "{kept} are never evicted, pinned or in use ({in_use} by containers), and leave {left}: a larger blob is passed on and not kept"
        ),
        "raise [store] max_size or lower min_free, give larder a larger disk, or `larder unpin` what need not stay",
    )
}
