//! A packet of a peer that says anything: see [`crate::fuzz`].

use super::wire::{LONGEST, Message};

/// What is understood is understood again when it is said again.
pub(crate) fn messages(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let again = message.bytes();
        assert!(again.len() <= LONGEST);
        if bytes.len() <= LONGEST {
            assert_eq!(Message::parse(&again), Ok(message));
        }
    }
}
