//! What the node tier keeps over kills, restarts, rot, full disks, and bounds (promises P11, P21, P22, P23).

mod bounds;
mod clocks;
mod crash;
mod disk;
mod hanging;
mod load;
mod manifests;
mod names;
mod resume;
mod rot;
mod scale;
mod uses;

use std::fs::{self, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use larder_tests::fake::{Content, digest_of};
use larder_tests::http;
use larder_tests::scene::{Compared, compare, files};

const MB: u64 = 1_000_000;

/// GETs a blob and compares it with its right content.
async fn pull(url: &str, content: &Content) -> (u16, Compared) {
    let mut stream = http::open(url, &[]).await.expect("an answer");
    let compared = compare(&mut stream, content, 0..content.len()).await;
    (stream.status, compared)
}

/// The result of [`pull`] when nothing went wrong.
fn whole(content: &Content) -> (u16, Compared) {
    (200, Compared::whole(content.len()))
}

/// The path of a committed blob.
fn path(store: &Path, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    store
        .join("blobs")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex)
}

/// The digests of all committed blobs; panics when one does not match its name. A blob that is evicted meanwhile is
/// left out.
fn sound_blobs(store: &Path) -> Vec<String> {
    let blobs = files(&store.join("blobs/sha256"));
    let sound = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let digest = format!("sha256:{}", name.expect("a name"));
        let content = match fs::read(path) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return None,
            content => content.expect("a blob"),
        };
        assert_eq!(digest_of(&content), digest);
        Some(digest)
    };
    blobs.iter().filter_map(sound).collect()
}

/// Makes a committed blob writable, so that a test can damage it. It is read-only otherwise, for every user but root.
fn writable(path: &Path) -> fs::File {
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("our own file");
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file")
}

/// Makes a file look as if it had been written and last used so long ago.
fn age(path: &Path, by: Duration) {
    let at = SystemTime::now() - by;
    let times = FileTimes::new().set_accessed(at).set_modified(at);
    let file = fs::File::open(path).expect("a file");
    file.set_times(times).expect("our own file");
}
