//! The first member's index says something else than its layer: what was read by it fails once the layer is whole, and what
//! comes after is right.

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use larder_layer::deflate::{compress, expand};
use larder_layer::envelope::{ENVELOPE, Envelope};
use larder_layer::format::{FOOTER, Footer};
use larder_layer::fuzz;
use larder_shared::Digest;

use super::node::{FIRST, Lazy, SECOND};
use crate::setup::refused;

/// Changes the time of the root directory in an index that a member keeps, and nothing else.
fn lie(path: &Path, layer: &Digest) -> Result<()> {
    let bytes = fs::read(path)?;
    let index = &bytes[..bytes.len() - ENVELOPE];
    let footer_at = index.len() - FOOTER;
    let footer = Footer::read(index[footer_at..].try_into()?);
    let mut footer = footer.context("no footer")?;
    let (from, to) = (
        footer.tree_at as usize,
        (footer.tree_at + footer.tree_stored) as usize,
    );
    let mut tree = vec![0; footer.tree_length as usize];
    expand(&index[from..to], &mut tree).map_err(|_| io::Error::other("no tree"))?;
    // The superblock: the root's number at 14, the blocks before the inodes at 40. The root: its time at 32.
    let superblock = &tree[1024..];
    let root = u16::from_le_bytes(superblock[14..16].try_into()?);
    let before = u32::from_le_bytes(superblock[40..44].try_into()?);
    tree[before as usize * 512 + usize::from(root) * 32 + 32] ^= 1;
    let stored = compress(&tree)?;
    footer.tree_stored = stored.len() as u64;
    footer.tree_hash = Digest::sha256(&tree).as_bytes().try_into()?;
    let table = &index[to..footer_at];
    let mut lie = [&index[..from], &stored, table, &footer.bytes()].concat();
    fuzz::seal(&mut lie);
    let envelope = Envelope::of(&mut Cursor::new(&lie), layer, "the first member")?;
    lie.extend(envelope.bytes());
    fs::write(path, lie)?;
    Ok(())
}

/// The last bytes of a layer's file, as a container that has it mounted reads it.
async fn tail(file: PathBuf) -> Result<io::Result<Vec<u8>>> {
    let read = move || {
        let file = File::open(file)?;
        let mut bytes = vec![0; 512];
        let at = file.metadata()?.len() - 512;
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    Ok(tokio::task::spawn_blocking(read).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mounted_by_a_wrong_index_fails_and_new_containers_are_right() -> Result<()> {
    if refused("what_is_mounted_by_a_wrong_index_fails_and_new_containers_are_right") {
        return Ok(());
    }
    let mut lazy = Lazy::new(1).await?;
    let layer: Digest = lazy.image.image.layers[0].digest.parse()?;
    let hex = layer.hex();
    let name = format!("indexes/sha256/{}/{hex}", &hex[..2]);
    lazy.cluster.node_mut(FIRST).kill9().await;
    lie(&lazy.cluster.node(FIRST).store().join(name), &layer)?;
    lazy.cluster.node_mut(FIRST).restart().await;
    let (mut lazy, gate) = lazy.gate().await?;
    let file = lazy.mounted(0);
    ensure!(File::open(&file).is_ok(), "it is not served");
    gate.open();
    lazy.until("the lie is found out", |lazy| {
        let log = lazy.second().log();
        log.contains("the index by which a layer is mounted was wrong")
    })
    .await?;
    ensure!(
        tail(file.clone()).await?.is_err(),
        "it was read by a wrong index"
    );
    lazy.until_whole().await?;
    lazy.run_and_compare().await?;
    // The right file does not lie where the wrong tree says, also for the next process.
    lazy.cluster.node_mut(SECOND).kill9().await;
    lazy.restart_second().await?;
    ensure!(tail(file).await?.is_err(), "it was read by a wrong index");
    lazy.run_and_compare().await
}
