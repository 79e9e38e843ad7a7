//! Fuzzes a peer's packets: see [`crate::fuzz`].

use super::wire::{LONGEST, Message};

/// A message that was parsed is parsed again to the same message after it was written.
pub(crate) fn messages(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let again = message.bytes();
        assert!(again.len() <= LONGEST);
        if bytes.len() <= LONGEST {
            assert_eq!(Message::parse(&again), Ok(message));
        }
    }
}
