//! Where the bytes of a stream go if nothing is kept: to the hashers and to the client.

use std::collections::VecDeque;

use bytes::Bytes;
use larder_shared::Hasher;
use tokio::sync::mpsc;

use crate::fill::FillError;

/// What becomes of the bytes of a stream.
pub(super) struct Sink<'a> {
    /// The next byte of the blob.
    pub at: u64,
    /// Bytes before this are hashed only.
    pub begin: u64,
    /// Hashes the bytes from `begin` on, so that two transfers of them can be compared.
    pub sent: Option<Hasher>,
    /// Bytes from here on wait for the digest.
    pub free_until: u64,
    /// Hashes all that comes.
    pub hasher: Option<Hasher>,
    /// The client's side, unless the bytes are fetched for their hash alone.
    pub sender: Option<&'a mpsc::Sender<Result<Bytes, FillError>>>,
    /// The bytes that wait for the digest.
    pub tail: VecDeque<Bytes>,
}

impl Sink<'_> {
    /// Takes the next bytes. `false` when the client has left.
    pub async fn take(&mut self, mut chunk: Bytes) -> bool {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        let skip = self.begin.saturating_sub(self.at).min(chunk.len() as u64);
        self.at += chunk.len() as u64;
        let mut chunk = chunk.split_off(skip as usize);
        if let Some(sent) = &mut self.sent {
            sent.update(&chunk);
        }
        let begin = self.at - chunk.len() as u64;
        let free = self
            .free_until
            .saturating_sub(begin)
            .min(chunk.len() as u64);
        let held = chunk.split_off(free as usize);
        if !held.is_empty() {
            self.tail.push_back(held);
        }
        match self.sender {
            Some(sender) if !chunk.is_empty() => sender.send(Ok(chunk)).await.is_ok(),
            _ => true,
        }
    }
}
