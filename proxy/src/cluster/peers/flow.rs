//! When something last came to this node, so that a member that waits for it can tell whether it waits in vain.
//!
//! A relay waits for roots and for its own sources, a root for its own sources alone. So bytes that a node receives
//! from a relay do not count: two nodes that wait for each other would both say that something comes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use larder_shared::Role;

/// When this node last received something, by what sent it.
#[derive(Debug)]
pub struct Flow {
    start: Instant,
    /// From upstream, the object store or a holder. Milliseconds after `start`, at least 1; 0 for never.
    own: AtomicU64,
    /// From a root, or a root has said that something comes to it.
    roots: AtomicU64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            own: AtomicU64::new(0),
            roots: AtomicU64::new(0),
        }
    }
}

impl Flow {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// Upstream or the object store brought something.
    pub fn note(&self) {
        self.own.store(self.now(), Ordering::Relaxed);
    }

    /// A member that was asked in `role` brought something, or has said that something comes to it.
    pub(super) fn note_member(&self, role: Role) {
        match role {
            Role::Holder => self.note(),
            Role::Root => self.roots.store(self.now(), Ordering::Relaxed),
            // No reader waits for a copy.
            Role::Relay | Role::Copy => {}
        }
    }

    /// How long ago something came for members that ask this node in `role`.
    pub fn since(&self, role: Role) -> Option<Duration> {
        let own = self.own.load(Ordering::Relaxed);
        let last = match role {
            Role::Holder | Role::Root | Role::Copy => own,
            Role::Relay => own.max(self.roots.load(Ordering::Relaxed)),
        };
        (last > 0).then(|| Duration::from_millis(self.now().saturating_sub(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: what brought something; columns: whether a member that asks in this role waits for it.
    #[test]
    fn a_role_waits_for_what_stands_behind_it_alone() {
        for (brought, holder, root, relay) in [
            (None, true, true, true),
            (Some(Role::Holder), true, true, true),
            (Some(Role::Root), false, false, true),
            (Some(Role::Relay), false, false, false),
        ] {
            let flow = Flow::default();
            assert!(Role::ALL.iter().all(|role| flow.since(*role).is_none()));
            match brought {
                None => flow.note(),
                Some(role) => flow.note_member(role),
            }
            let waits =
                [Role::Holder, Role::Root, Role::Relay].map(|role| flow.since(role).is_some());
            assert_eq!(waits, [holder, root, relay], "{brought:?}");
        }
    }
}
