//! Ready files: either tree and tar, or an error and no file that could be mounted.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZero;

use larder_layer::ready::{NotReady, write};
use larder_layer::{Index, SpanError, build};

use crate::gzip::{How, gzip};
use crate::made::Tar;

/// A layer and its index as files, with the tar.
struct Files {
    dir: tempfile::TempDir,
    tar: Vec<u8>,
}

impl Files {
    fn new(compressed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Tar::default();
        let content: Vec<u8> = (0..9_000_000_u32)
            .map(|at| ((at >> 3) ^ ((at * 7) >> 5)) as u8)
            .collect();
        let tar = tar.directory(b"d").file(b"d/f", &content).end();
        let layer = if compressed {
            gzip(&tar, &[How::default()])
        } else {
            tar.clone()
        };
        let mut index = File::create(dir.path().join("index")).unwrap();
        build(&mut &layer[..], &mut index).unwrap();
        fs::write(dir.path().join("layer"), layer).unwrap();
        Self { dir, tar }
    }

    fn open(&self, name: &str) -> File {
        File::open(self.dir.path().join(name)).unwrap()
    }

    fn write(&self, threads: usize) -> (Result<(), NotReady>, Vec<u8>, Vec<u8>) {
        let index = Index::open(&mut self.open("index")).unwrap();
        let path = self.dir.path().join("ready");
        let ready = File::create(&path).unwrap();
        let threads = NonZero::new(threads).unwrap();
        let result = write(
            &index,
            &self.open("index"),
            &self.open("layer"),
            &ready,
            threads,
        );
        (result, fs::read(path).unwrap(), index.tree().to_vec())
    }
}

#[test]
fn a_ready_file_is_tree_and_tar() {
    for compressed in [false, true] {
        let files = Files::new(compressed);
        for threads in [1, 2, 100] {
            let (result, ready, tree) = files.write(threads);
            result.unwrap();
            assert!(
                ready == [&tree[..], &files.tar].concat(),
                "{threads} threads"
            );
        }
    }
}

#[test]
fn a_changed_layer_gives_no_file_that_can_be_mounted() {
    let files = Files::new(true);
    let mut layer = fs::read(files.dir.path().join("layer")).unwrap();
    let middle = layer.len() / 2;
    layer[middle] ^= 1;
    fs::write(files.dir.path().join("layer"), &layer).unwrap();
    for threads in [1, 3] {
        let (result, ready, tree) = files.write(threads);
        assert!(
            matches!(result, Err(NotReady::Span(_, SpanError::Layer))),
            "{result:?}"
        );
        let begin = ready.len().min(tree.len());
        assert!(ready[..begin].iter().all(|byte| *byte == 0));
    }
    layer.truncate(middle);
    File::create(files.dir.path().join("layer"))
        .unwrap()
        .write_all(&layer)
        .unwrap();
    assert!(matches!(files.write(2).0, Err(NotReady::Read(_))));
}
