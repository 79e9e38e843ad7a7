//! A holder replaced by another, and a daemon by another, while all are alive.

use larder::sys::fuse::Control;

use crate::{
    daemon::told,
    reading::{Readers, read},
    setup::Setup,
};

#[test]
fn a_holder_is_replaced_under_readers() {
    let setup = Setup::new();
    let mut holder = setup.holder(&[]);
    let mut daemon = setup.daemon(5);
    let before = setup.connection();
    let readers = Readers::start(&setup, 8);
    for _ in 0..3 {
        readers.more(20);
        let next = setup.holder(&[]);
        assert!(holder.ended().success());
        holder = next;
        setup.until_told(&daemon, "held true");
        // The new holder has the connection, which lives by that alone while no daemon is there.
        daemon.kill();
        daemon = setup.daemon(5);
    }
    readers.more(20);
    assert_eq!((setup.mounted(), setup.connection()), (1, before));
    assert_eq!(readers.end().1, 0);
}

#[test]
fn a_daemon_gives_way_to_a_later_one_and_serves_again_when_that_is_gone() {
    let setup = Setup::new();
    let _holder = setup.holder(&[]);
    let first = setup.daemon(5);
    let readers = Readers::start(&setup, 8);
    readers.more(20);
    let second = setup.daemon(5);
    setup.until_told(&first, "gave-way false");
    readers.more(50);
    second.kill();
    setup.until_told(&first, "held true");
    readers.more(50);
    let third = setup.daemon(5);
    setup.until_told(&first, "gave-way false");
    first.kill();
    readers.more(50);
    assert_eq!(readers.end().1, 0);
    drop(third);
}

#[test]
fn reads_are_as_large_as_the_answer_to_init_allows() {
    let setup = Setup::new();
    let _holder = setup.holder(&[]);
    let daemon = setup.daemon(0);
    read(&setup.made(0), 0).expect("a file");
    let told = told(setup.said(), daemon.pid());
    let largest = told
        .lines()
        .filter_map(|line| line.strip_prefix("read ")?.parse::<u64>().ok())
        .max();
    assert_eq!(largest, Some(1 << 20), "{told}");
    // No request is left that waits for an answer.
    let control = Control::open().expect("root");
    let (_, device) = setup.connection().expect("it is mounted");
    assert_eq!(control.waiting(device).expect("a number"), 0);
}

#[test]
fn what_is_not_whole_is_an_error_and_an_error_does_not_stick() {
    let setup = Setup::new();
    let _holder = setup.holder(&[]);
    let _daemon = setup.daemon(0);
    for word in ["short", "fail"] {
        setup.say(word);
        let failed = read(&setup.made(1), 1).expect_err(word);
        assert_eq!(failed.raw_os_error(), Some(nix::libc::EIO), "{word}");
        setup.unsay(word);
        read(&setup.made(1), 1).expect("it is there again");
    }
    let absent = read(&setup.files().join("made-999"), 999).expect_err("no file");
    assert_eq!(absent.kind(), std::io::ErrorKind::NotFound);
    assert!(std::fs::write(setup.made(1), "x").is_err());
}
