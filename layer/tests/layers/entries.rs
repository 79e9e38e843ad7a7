//! Layers without an index because of their entries.

use larder_layer::Refused;
use tar::EntryType;

use crate::made::{Format, Said};
use crate::refused::of;

#[test]
fn paths_that_lead_elsewhere() {
    assert_eq!(
        of(|tar| {
            tar.file(b"../f", b"");
        }),
        Some(Refused::Path)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b"a/../f", b"");
        }),
        Some(Refused::Path)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b"./", b"");
        }),
        Some(Refused::Header)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b".", b"");
        }),
        Some(Refused::Path)
    );
    assert_eq!(
        of(|tar| {
            tar.symlink(b"s", b"");
        }),
        Some(Refused::Path)
    );
    assert_eq!(
        of(|tar| {
            tar.file(&[b'n'; 256], b"");
        }),
        Some(Refused::NameTooLong)
    );
    assert_eq!(
        of(|tar| {
            tar.file(&b"d/".repeat(2048), b"");
        }),
        Some(Refused::Header)
    );
    assert_eq!(
        of(|tar| {
            tar.file(&[b"d/".repeat(2048), b"f".to_vec()].concat(), b"");
        }),
        Some(Refused::NameTooLong)
    );
    assert_eq!(
        of(|tar| {
            tar.symlink(b"s", &[b't'; 4096]);
        }),
        Some(Refused::NameTooLong)
    );
    assert_eq!(
        of(|tar| {
            tar.symlink(b"s", b"/etc").file(b"s/passwd", b"");
        }),
        Some(Refused::ThroughLink)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b"f", b"").file(b"f/g", b"");
        }),
        Some(Refused::NotADirectory)
    );
}

#[test]
fn hard_links_without_their_target() {
    assert_eq!(
        of(|tar| {
            tar.link(b"a", b"b");
        }),
        Some(Refused::HardLink)
    );
    assert_eq!(
        of(|tar| {
            tar.link(b"a", b"b").file(b"b", b"");
        }),
        Some(Refused::HardLink)
    );
    assert_eq!(
        of(|tar| {
            tar.directory(b"b").link(b"a", b"b");
        }),
        Some(Refused::HardLink)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b".wh.b", b"").link(b"a", b"b");
        }),
        Some(Refused::HardLink)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b"a", b"").link(b"a", b"./a");
        }),
        Some(Refused::HardLink)
    );
    let other = of(|tar| {
        let said = Said {
            uid: 1,
            ..Said::default()
        };
        tar.file(b"a", b"")
            .entry(b"b", EntryType::Link, b"", b"a", (0, 0), &said);
    });
    assert_eq!(other, Some(Refused::HardLink));
}

#[test]
fn whiteouts_without_sense() {
    for name in [
        &b".wh."[..],
        b".wh..",
        b".wh...",
        b".wh..wh.plnk",
        b".wh.d/f",
        b"d/.wh..wh.aufs",
    ] {
        assert_eq!(
            of(|tar| {
                tar.file(name, b"");
            }),
            Some(Refused::Whiteout),
            "{}",
            name.escape_ascii()
        );
    }
    assert_eq!(
        of(|tar| {
            tar.directory(b".wh.d");
        }),
        Some(Refused::Whiteout)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b"a", b"").file(b".wh.a", b"");
        }),
        Some(Refused::WhiteoutOfOwn)
    );
    assert_eq!(
        of(|tar| {
            tar.file(b".wh.a", b"").file(b".wh.a", b"");
        }),
        None
    );
}

#[test]
fn attributes_that_mean_something_else() {
    let with = |name: &str, value: &[u8]| {
        of(|tar| {
            let xattrs = vec![(name.to_owned(), value.to_vec())];
            let said = Said {
                format: Format::Pax,
                xattrs,
                ..Said::default()
            };
            tar.entry(b"f", EntryType::Regular, b"", b"", (0, 0), &said);
        })
    };
    let long = vec![0; 65_536];
    assert_eq!(with("user.a", &long[1..]), None);
    let wrong: [(&str, &[u8]); 6] = [
        ("trusted.overlay.redirect", b"/etc"),
        ("trusted.overlay.opaque", b"y"),
        ("user.overlay.metacopy", b""),
        ("system.posix_acl_access", &[2, 0, 0, 0]),
        ("user.", b"1"),
        ("user.a", &long),
    ];
    for (name, value) in wrong {
        assert_eq!(with(name, value), Some(Refused::Xattr), "{name}");
    }
    assert_eq!(
        with(&("user.".to_owned() + &"n".repeat(251)), b""),
        Some(Refused::Xattr)
    );
    let many = of(|tar| {
        let xattrs = (0..5)
            .map(|number| (format!("user.{number}"), vec![0; 60_000]))
            .collect();
        let said = Said {
            format: Format::Pax,
            xattrs,
            ..Said::default()
        };
        tar.entry(b"f", EntryType::Regular, b"", b"", (0, 0), &said);
    });
    assert_eq!(many, Some(Refused::Xattr));
}

#[test]
fn numbers_that_do_not_fit() {
    let with = |said: Said, kind, device| {
        of(|tar| {
            tar.entry(b"x", kind, b"", b"", device, &said);
        })
    };
    let regular = EntryType::Regular;
    assert_eq!(
        with(
            Said {
                uid: 1 << 32,
                ..Said::default()
            },
            regular,
            (0, 0)
        ),
        Some(Refused::Number)
    );
    assert_eq!(
        with(
            Said {
                gid: u64::MAX,
                ..Said::default()
            },
            regular,
            (0, 0)
        ),
        Some(Refused::Number)
    );
    assert_eq!(
        with(Said::default(), EntryType::Char, (4096, 0)),
        Some(Refused::Number)
    );
    assert_eq!(
        with(Said::default(), EntryType::Block, (0, 1 << 20)),
        Some(Refused::Number)
    );
}

#[test]
fn more_than_200000_inodes() {
    let files = |count: u32| {
        of(|tar| {
            for number in 0..count {
                tar.file(format!("{}/{number}", number % 100).as_bytes(), b"");
            }
        })
    };
    // The root and 100 directories count too.
    assert_eq!(files(199_899), None);
    assert_eq!(files(199_900), Some(Refused::TooManyInodes));
}
