//! Fuzzes the requests of a kernel: see [`crate::fuzz`].

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    Entry, Files, Unread, reply,
    wire::{Operation, Request},
};

/// Every name and every number is a file.
struct Every;

impl Files for Every {
    fn named(&self, name: &[u8]) -> Option<Entry> {
        self.of(name.len() as u64)
    }

    fn of(&self, node: u64) -> Option<Entry> {
        let bytes = u64::MAX;
        Some(Entry { node, bytes })
    }

    async fn read(self: Arc<Self>, _: u64, _: Range<u64>) -> Result<Bytes, Unread> {
        Err(Unread::Failed)
    }
}

/// Every request that needs an answer gets one, with the request's number and the answer's own length.
pub(crate) fn requests(bytes: &[u8]) {
    let Some(request) = Request::parse(bytes) else {
        return;
    };
    match (reply::at_once(&request, &Every), request.operation) {
        (None, Operation::Silent | Operation::Read { .. }) => {}
        (Some(answer), _) => {
            assert_eq!(answer[..4], (answer.len() as u32).to_ne_bytes());
            assert_eq!(answer[8..16], request.unique.to_ne_bytes());
        }
        (None, other) => panic!("{other:?} is not answered"),
    }
}
