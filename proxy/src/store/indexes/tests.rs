//! Indexes in a store, of layers that the tests make. The key is a hash with a secret before it.

use std::{fs, path::Path};

use larder_layer::{
    envelope::{ENVELOPE, Proof},
    format::{FOOTER, RECORD},
};
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::*;

const KEY: &[u8] = b"a secret of the cluster";

fn proof(key: &[u8], envelope: &Envelope) -> Proof {
    let said = [key, &envelope.signed()].concat();
    Digest::sha256(&said).as_bytes().try_into().unwrap()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "a cluster without a key has no proof"
)]
fn sign(envelope: &Envelope) -> Option<Proof> {
    Some(proof(KEY, envelope))
}

fn is_signed(envelope: &Envelope) -> bool {
    envelope.proof == sign(envelope)
}

/// A tar of one file.
fn layer(content: &[u8]) -> Vec<u8> {
    let mut head = [0; 512];
    let mut put = |at: usize, text: &[u8]| head[at..at + text.len()].copy_from_slice(text);
    put(0, b"file");
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = [&head[..], content].concat();
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

struct Scene {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    layer: Vec<u8>,
    digest: Digest,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(&[7; 3000]);
        Self {
            store: open(dir.path()),
            digest: Digest::sha256(&layer),
            dir,
            layer,
        }
    }

    fn again(&mut self) {
        let elsewhere = tempfile::tempdir().unwrap();
        // The lock of the first has to go before the second is taken.
        self.store = open(elsewhere.path());
        self.store = open(self.dir.path());
    }

    fn indexes(&self) -> &Arc<Indexes> {
        self.store.indexes()
    }

    /// The index of a layer as a file, without an envelope.
    fn built(&self, layer: &[u8]) -> PathBuf {
        let path = self.indexes().new_tmp();
        let mut file = Indexes::create_tmp(&path).unwrap();
        larder_layer::build(&mut &layer[..], &mut file).unwrap();
        path
    }

    fn keep_own(&self) -> Other {
        let built = self.built(&self.layer);
        let kept = self
            .indexes()
            .keep_own(&built, &self.digest, "own", &sign)
            .unwrap();
        assert!(!built.exists());
        kept
    }

    /// An index that says something else of the only span of this layer. It is signed.
    fn lie(&self) -> Vec<u8> {
        let mut bytes = fs::read(self.built(&self.layer)).unwrap();
        let span = bytes.len() - FOOTER - RECORD;
        for hash in [40, 72] {
            bytes[span + hash] ^= 1;
        }
        larder_layer::fuzz::seal(&mut bytes);
        self.signed(bytes, KEY)
    }

    fn truth(&self) -> Vec<u8> {
        self.signed(fs::read(self.built(&self.layer)).unwrap(), KEY)
    }

    /// The index with the envelope of a member called `other`.
    fn signed(&self, mut index: Vec<u8>, key: &[u8]) -> Vec<u8> {
        let mut file = std::io::Cursor::new(&mut index);
        let mut envelope = Envelope::of(&mut file, &self.digest, "other").unwrap();
        envelope.proof = Some(proof(key, &envelope));
        index.extend(envelope.bytes());
        index
    }

    fn keep(&self, bytes: &[u8]) -> Result<OpenIndex, NotKept> {
        let came = self.indexes().new_tmp();
        fs::write(&came, bytes).unwrap();
        let length = self.layer.len() as u64;
        let kept = self
            .indexes()
            .keep(&came, &self.digest, Some(length), &is_signed);
        assert_eq!(came.exists(), kept.is_err());
        kept
    }
}

fn open(dir: &Path) -> Arc<Store> {
    let store = Store::open(dir).unwrap();
    store.scan();
    store
}

#[test]
fn an_own_index_outlives_the_process_and_one_that_is_damaged_is_found() {
    let mut scene = Scene::new();
    assert!(scene.indexes().open(&scene.digest).is_none());
    assert!(matches!(scene.keep_own(), Other::None));
    scene.again();
    let totals = scene.indexes().totals();
    assert_eq!((totals.own, totals.foreign), (1, 0));
    let open = scene.indexes().open(&scene.digest).unwrap();
    assert_eq!((open.made, open.maker.as_str()), (Made::Here, "own"));
    assert_eq!(open.index.layer(), scene.digest);
    let (file, envelope) = scene.indexes().give(&scene.digest).unwrap();
    let length = file.metadata().unwrap().len();
    assert_eq!(envelope.index_length + ENVELOPE as u64, length);
    assert_eq!((length, totals.foreign_bytes), (totals.own_bytes, 0));
    assert!(is_signed(&envelope));

    let path = scene.indexes().path(&scene.digest, Made::Here);
    let mut bytes = fs::read(&path).unwrap();
    bytes[9] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(scene.indexes().open(&scene.digest).is_none());
    assert_eq!(scene.indexes().has(&scene.digest), None);
    assert!(!path.exists());
}

#[test]
fn what_came_from_elsewhere_is_compared_with_the_layer() {
    let scene = Scene::new();
    let open = scene.keep(&scene.truth()).unwrap();
    assert_eq!((open.made, open.maker.as_str()), (Made::Elsewhere, "other"));
    assert_eq!(scene.indexes().unproven(), [scene.digest]);
    assert!(
        scene.indexes().give(&scene.digest).is_none(),
        "it is not given on before it is proven"
    );
    let proven = scene.keep_own();
    assert!(
        matches!(&proven, Other::Right { maker } if maker == "other"),
        "{proven:?}"
    );
    assert_eq!(scene.indexes().has(&scene.digest), Some(Made::Here));
    assert_eq!(scene.indexes().totals().foreign, 0);
    assert_eq!(scene.indexes().wrong(), []);
    assert!(scene.indexes().give(&scene.digest).is_some());
}

#[test]
fn one_that_is_wrong_is_set_aside_and_its_maker_is_not_believed() {
    let mut scene = Scene::new();
    scene.keep(&scene.lie()).unwrap();
    let Other::Wrong(wrong) = scene.keep_own() else {
        panic!("a lie was not found out");
    };
    assert_eq!((wrong.layer, wrong.maker.as_str()), (scene.digest, "other"));
    let aside = scene.store.layout.quarantine();
    assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
    for _ in 0..2 {
        assert_eq!(scene.indexes().wrong(), std::slice::from_ref(&wrong));
        scene.indexes().remove(&scene.digest, Made::Here);
        for bytes in [scene.lie(), scene.truth()] {
            let kept = scene.keep(&bytes);
            assert!(matches!(kept, Err(NotKept::Disproved(_))), "{kept:?}");
        }
        assert_eq!(scene.indexes().has(&scene.digest), None);
        scene.again();
    }
    scene.keep(&scene.truth()).unwrap_err();
}

#[test]
fn one_of_a_layer_that_cannot_have_one_is_wrong() {
    let scene = Scene::new();
    scene.keep(&scene.truth()).unwrap();
    let refused = larder_layer::Refused::Compression;
    let judged = scene.indexes().judge_refused(&scene.digest, &refused);
    assert!(matches!(judged, Ok(Other::Wrong(_))), "{judged:?}");
    assert_eq!(scene.indexes().has(&scene.digest), None);
}

#[test]
fn it_goes_with_its_blob_unless_a_caller_needs_it() {
    let scene = Scene::new();
    scene
        .store
        .put(&scene.digest, &scene.layer.clone().into())
        .unwrap();
    scene.keep_own();
    let needed = scene.indexes().need(scene.digest);
    scene.store.remove(&scene.digest);
    assert_eq!(scene.indexes().has(&scene.digest), Some(Made::Here));
    drop(needed);
    scene.store.let_index_go(&scene.digest);
    assert_eq!(scene.indexes().has(&scene.digest), None);

    scene
        .store
        .put(&scene.digest, &scene.layer.clone().into())
        .unwrap();
    scene.keep_own();
    scene.store.remove(&scene.digest);
    assert_eq!(scene.indexes().has(&scene.digest), None);
    let path = scene.indexes().path(&scene.digest, Made::Here);
    assert!(!path.exists());
}

#[test]
fn each_reason_not_to_believe_one() {
    let scene = Scene::new();
    let index = fs::read(scene.built(&scene.layer)).unwrap();
    let wrong_key = scene.signed(index.clone(), b"another cluster's");
    let mut unsigned = index.clone();
    let envelope = Envelope::of(&mut std::io::Cursor::new(&index), &scene.digest, "x").unwrap();
    unsigned.extend(envelope.bytes());
    // A right envelope in front of another index.
    let truth = scene.truth();
    let mut other = fs::read(scene.built(&layer(&[9; 3000]))).unwrap();
    other.extend(&truth[truth.len() - ENVELOPE..]);
    let longer = [&truth[..], &[0]].concat();
    for (what, bytes) in [
        ("wrong key", wrong_key),
        ("unsigned", unsigned),
        ("another index", other),
        ("longer", longer),
        ("no envelope", index),
        ("nothing", Vec::new()),
    ] {
        let kept = scene.keep(&bytes);
        assert!(matches!(kept, Err(NotKept::Unbelieved(_))), "{what}");
    }
    let other = Digest::sha256(b"another layer");
    let came = scene.indexes().new_tmp();
    fs::write(&came, &truth).unwrap();
    for (layer, length) in [
        (other, scene.layer.len()),
        (scene.digest, scene.layer.len() + 1),
    ] {
        let length = Some(length as u64);
        let kept = scene.indexes().keep(&came, &layer, length, &is_signed);
        assert!(matches!(kept, Err(NotKept::Unbelieved(_))), "{kept:?}");
    }
    scene.keep(&truth).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// No change of what a member signed is kept.
    #[test]
    fn a_changed_index_is_never_kept(at in any::<Pick>(), end in any::<bool>(), by in 1..=255_u8, cut in any::<bool>()) {
        thread_local!(static SCENE: (Scene, Vec<u8>) = {
            let scene = Scene::new();
            let truth = scene.truth();
            (scene, truth)
        });
        SCENE.with(|(scene, truth)| {
            let mut bytes = truth.clone();
            let last = bytes.len() - 1;
            let at = if end { last - at.index(2 * ENVELOPE) } else { at.index(bytes.len()) };
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= by;
            }
            assert!(scene.keep(&bytes).is_err(), "byte {at} of {last}");
            assert_eq!(scene.indexes().has(&scene.digest), None);
        });
    }
}
