//! Indexes signed as a member would sign them, with the cluster's key or with another one.

use std::io::Cursor;

use larder_layer::envelope::Envelope;
use larder_layer::format::{FOOTER, RECORD};
use larder_layer::{build, fuzz};
use larder_shared::Digest;
use larder_tests::fake::Content;
use larder_tests::image::Image;

/// The index of an image's first layer, sealed after a change, and signed under `key` by a member called `maker`.
pub(super) fn signed(
    image: &Image,
    maker: &str,
    key: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> Content {
    let layer = &image.layers[0];
    let bytes = layer.content.read(0..layer.content.len());
    let mut index = Vec::new();
    build(&mut &bytes[..], &mut index).expect("an index");
    change(&mut index);
    fuzz::seal(&mut index);
    let digest: Digest = layer.digest.parse().expect("a digest");
    let mut envelope = Envelope::of(&mut Cursor::new(&index), &digest, maker).expect("an envelope");
    let kind = b"index of a layer, 1";
    let signed = envelope.signed();
    let mut said = Vec::new();
    for field in [&kind[..], &signed] {
        said.extend((field.len() as u64).to_le_bytes());
        said.extend(field);
    }
    envelope.proof = Some(hmac(key.trim().as_bytes(), &said));
    index.extend(envelope.bytes());
    Content::bytes(index)
}

/// HMAC-SHA-256 for a key of at most 64 bytes.
fn hmac(key: &[u8], said: &[u8]) -> [u8; 32] {
    let pad = |by: u8| -> Vec<u8> {
        let mut block = key.to_vec();
        block.resize(64, 0);
        block.iter().map(|byte| byte ^ by).collect()
    };
    let inner = Digest::sha256(&[pad(0x36), said.to_vec()].concat());
    let outer = Digest::sha256(&[pad(0x5c), inner.as_bytes().to_vec()].concat());
    outer.as_bytes().try_into().expect("32 bytes")
}

/// Changes what an index says about the bytes of its first span.
pub(super) fn lie(index: &mut [u8]) {
    let at = index.len() - FOOTER;
    let spans = u64::from_le_bytes(index[at + 152..at + 160].try_into().expect("8 bytes"));
    let table = at - RECORD * spans as usize;
    for hash in [40, 72] {
        index[table + hash] ^= 1;
    }
}
