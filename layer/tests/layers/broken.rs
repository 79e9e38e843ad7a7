//! Index files with changed bytes.

use std::io::Cursor;

use larder_layer::format::FOOTER;
use larder_layer::{Broken, Index, build, fuzz};
use proptest::prelude::*;
use proptest::sample::Index as Pick;

use crate::gzip::{How, gzip};
use crate::made::Tar;

fn index() -> Vec<u8> {
    let mut tar = Tar::default();
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|at| ((at >> 3) ^ ((at * 7) >> 5)) as u8)
        .collect();
    tar.directory(b"d")
        .file(b"d/f", &content)
        .link(b"g", b"d/f");
    let mut file = Vec::new();
    build(&mut &gzip(&tar.end(), &[How::default()])[..], &mut file).unwrap();
    file
}

fn open(bytes: &[u8]) -> Result<Index, Broken> {
    Index::open(&mut Cursor::new(bytes))
}

#[test]
fn a_file_that_is_cut_or_of_another_version() {
    let file = index();
    assert!(open(&file).is_ok());
    for end in [0, 1, FOOTER - 1, FOOTER, file.len() / 2, file.len() - 1] {
        assert!(
            matches!(open(&file[..end]), Err(Broken::NotAnIndex)),
            "cut at {end}"
        );
    }
    let mut other = file.clone();
    let last = other.len() - 1;
    other[last] = 2;
    assert!(matches!(open(&other), Err(Broken::NotAnIndex)));
}

#[test]
fn any_changed_byte_breaks_the_seal() {
    let file = index();
    for at in (0..file.len() - 40).step_by(97) {
        let mut changed = file.clone();
        changed[at] ^= 4;
        assert!(open(&changed).is_err(), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// With a corrected seal, the parts themselves must hold.
    #[test]
    fn a_sealed_change_is_refused_or_harmless(at in any::<Pick>(), end in any::<bool>(), value in any::<u8>()) {
        thread_local!(static FILE: Vec<u8> = index());
        let mut file = FILE.with(Clone::clone);
        let at = if end { file.len() - 1 - at.index(FOOTER + 400) } else { at.index(file.len()) };
        file[at] = value;
        fuzz::indexes(&file);
    }
}
