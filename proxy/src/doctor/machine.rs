//! The machine: store, disk, files, limits.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use larder_shared::admin::{Check, Finding};

use crate::{
    config::{Config, Credentials, PeerTls},
    pull::Pull,
    store::{Limits, Store, Tenure},
    sys,
};

/// The registry port accepts 2048 connections, each of which may hold a blob open.
const OPEN_FILES: u64 = 4096;

/// If less than one inode in this many is free, the check warns.
const FREE_INODES: u64 = 50;

pub(super) async fn look(pull: &Pull) -> Vec<Finding> {
    let (store, config, limits) = (pull.store.clone(), pull.config.load_full(), pull.limits());
    // A file system may hang. The other checks do not wait for it.
    let looked = tokio::task::spawn_blocking(move || {
        vec![
            disk(&store, &limits),
            inodes(&store),
            permissions(&store, &config),
        ]
    });
    let mut findings = vec![tier(pull), rot(pull), open_files()];
    match tokio::time::timeout(super::WITHIN, looked).await {
        Ok(Ok(looked)) => findings.extend(looked),
        _ => findings.push(Finding::error(
            Check::Disk,
            format!(
                "{} does not answer within {} s",
                pull.store.root().display(),
                super::WITHIN.as_secs()
            ),
            "look at the disk and at the kernel's log (dmesg)",
        )),
    }
    findings
}

fn tier(pull: &Pull) -> Finding {
    let place = pull.store.root().display();
    if pull.store.tenure() == Tenure::Waiting && pull.store.trouble().is_none() {
        return Finding::warning(
            Check::Store,
            format!("another larder has {place}, and this one is a plain proxy until it lets go"),
            "it takes over by itself when the other one has ended; if two are to run on this node, each needs a store of its own: [store] path",
        );
    }
    match pull.store.trouble() {
        None => Finding::ok(Check::Store, format!("{place} takes what is written")),
        Some(why) => Finding::error(
            Check::Store,
            format!("{place} cannot be written, and larder is a plain proxy: {why}"),
            "free space or fix the disk; larder tries it again when a pull brings something to keep",
        ),
    }
}

fn rot(pull: &Pull) -> Finding {
    match pull.store.rotten() {
        0 => Finding::ok(Check::Rot, "no blob was found damaged since the start"),
        count => Finding::error(
            Check::Rot,
            format!("{count} blobs were found damaged on disk since the start"),
            "they are fetched again by themselves; `larder verify` looks at all others. The disk or its controller loses data: replace it",
        ),
    }
}

fn disk(store: &Store, limits: &Limits) -> Finding {
    let place = store.root().display().to_string();
    let space = match store.space() {
        Ok(space) => space,
        Err(error) => {
            return Finding::error(
                Check::Disk,
                format!("{place}: {error}"),
                "look whether the directory is there and its file system is mounted",
            );
        }
    };
    let size = |bytes| bytesize::ByteSize::b(bytes).display().iec().to_string();
    let bounds = limits.bounds(space.total);
    let held = store.taken();
    let capacity = bounds.capacity(held, space.free);
    let min_free = size(bounds.min_free);
    // Eviction frees only what larder holds. If that is not enough, other files fill the disk.
    if capacity == 0 {
        return Finding::warning(
            Check::Disk,
            format!(
                "{place} keeps nothing: {} of {} are free, larder holds {}, and [store] min_free wants {min_free} free",
                size(space.free),
                size(space.total),
                size(held)
            ),
            "something else fills this file system: make room, move [store] path to another one, or lower min_free",
        );
    }
    Finding::ok(
        Check::Disk,
        format!(
            "{place}: {} free of {}; larder may hold {} here, and [store] min_free keeps {min_free} free",
            size(space.free),
            size(space.total),
            size(capacity)
        ),
    )
}

fn inodes(store: &Store) -> Finding {
    match sys::disk::inodes(store.root()) {
        Ok(Some((all, free))) if free < all / FREE_INODES => Finding::warning(
            Check::Inodes,
            format!(
                "{}: {free} of {all} inodes are left",
                store.root().display()
            ),
            "something fills the file system with small files: remove them, or give larder a file system of its own",
        ),
        Ok(Some((all, free))) => {
            Finding::ok(Check::Inodes, format!("{free} of {all} inodes are left"))
        }
        // Some file systems create inodes on demand. An error of the disk is a finding of the check `disk`.
        Ok(None) | Err(_) => Finding::ok(Check::Inodes, "the file system does not count inodes"),
    }
}

/// Whether other users can read larder's secrets, connect to the admin socket, or write to the store.
fn permissions(store: &Store, config: &Config) -> Finding {
    let (grants, key) = store.grants();
    let mut secret = vec![key, grants, config.admin.socket.clone()];
    if let Some(peers) = &config.cluster.peers {
        secret.extend(peers.key.clone());
        if let PeerTls::Mutual(files) = &peers.tls {
            secret.push(files.key.clone());
        }
    }
    for upstream in config.upstreams.values() {
        match &upstream.credentials {
            Some(Credentials::DockerConfig { path }) => secret.push(path.clone()),
            Some(Credentials::Files { password, .. }) => secret.push(password.clone()),
            Some(Credentials::Cloud(identity)) => secret.extend(identity.key_file.clone()),
            _ => {}
        }
    }
    let mut open: Vec<String> = secret.iter().filter_map(|path| readable(path)).collect();
    open.extend(writable(store.root()));
    if open.is_empty() {
        return Finding::ok(
            Check::Permissions,
            format!("{} files are for their owner alone", secret.len()),
        );
    }
    Finding::warning(
        Check::Permissions,
        open.join("; "),
        "chmod o= on each (0600 for larder's own). A credential that others could read should be replaced",
    )
}

/// Says that every user can access the file; `None` if not. A group may, as it may read the files of a Secret.
fn readable(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_dir() {
        let names = [".dockerconfigjson", "config.json"].map(|name| path.join(name));
        let mut files = names.iter().filter(|name| name.is_file());
        return readable(files.next().map(PathBuf::as_path)?);
    }
    let mode = metadata.permissions().mode() & 0o7777;
    // Others cannot read a file in a directory that they cannot enter. A file that Kubernetes mounts into a container
    // from a Secret is not open either, whatever its mode.
    let shut = |dir: &Path| {
        let entered = fs::metadata(dir).is_ok_and(|dir| dir.permissions().mode() & 0o001 != 0);
        !entered || dir.join("..data").exists()
    };
    (mode & 0o006 != 0 && !path.ancestors().skip(1).any(shut)).then(|| {
        format!(
            "{} is open to every user (mode {mode:04o}, owner {})",
            path.display(),
            metadata.uid()
        )
    })
}

/// Says that every user can write to `dir`; `None` if not.
fn writable(dir: &Path) -> Option<String> {
    let mode = fs::metadata(dir).ok()?.permissions().mode() & 0o7777;
    (mode & 0o002 != 0).then(|| {
        format!(
            "{} can be written by every user (mode {mode:04o})",
            dir.display()
        )
    })
}

fn open_files() -> Finding {
    match sys::open_files() {
        Ok((now, most)) if now < OPEN_FILES => Finding::warning(
            Check::Limits,
            format!(
                "{now} files may be open at once (at most {most} could be), fewer than a busy node needs"
            ),
            format!(
                "raise the limit of open files to {OPEN_FILES} or more: LimitNOFILE= of the unit, or the container runtime's default ulimit"
            ),
        ),
        Ok((now, _)) => Finding::ok(Check::Limits, format!("{now} files may be open at once")),
        Err(error) => Finding::ok(Check::Limits, format!("not known: {error}")),
    }
}
