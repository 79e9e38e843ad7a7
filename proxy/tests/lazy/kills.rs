//! Daemons and holders that die while readers read.

use std::{env, thread::sleep, time::Duration};

use crate::{
    reading::{Readers, read},
    setup::{Setup, until},
};

/// Sets how often the daemon dies.
const KILLS: &str = "LARDER_TEST_KILLS";

#[test]
fn a_daemon_that_dies_at_any_moment_costs_no_reader_a_byte() {
    let kills = env::var(KILLS).map_or(200, |kills| kills.parse().expect("a number"));
    let setup = Setup::new();
    let _holder = setup.holder(&[]);
    let mut daemon = setup.daemon(20);
    let readers = Readers::start(&setup, 50);
    for _ in 0..kills {
        sleep(Duration::from_millis(fastrand::u64(5..120)));
        daemon.kill();
        daemon = setup.starting(20);
    }
    readers.more(100);
    let (read, failed) = readers.end();
    eprintln!("{kills} kills, {read} files");
    assert_eq!(failed, 0, "of {read}");
}

#[test]
fn a_holder_that_dies_alone_is_not_missed_and_a_new_one_takes_over() {
    let setup = Setup::new();
    let holder = setup.holder(&[]);
    let daemon = setup.daemon(5);
    let readers = Readers::start(&setup, 8);
    readers.more(50);
    holder.kill();
    readers.more(100);
    setup.until_told(&daemon, "absent true");
    let holder = setup.holder(&[]);
    holder.says("gives a connection back");
    setup.until_told(&daemon, "held true");
    assert_eq!(setup.mounted(), 1);
    // Now the new holder keeps the connection.
    daemon.kill();
    let _daemon = setup.daemon(5);
    readers.more(100);
    assert_eq!(setup.mounted(), 1);
    assert_eq!(readers.end().1, 0);
}

#[test]
fn when_both_die_reads_fail_and_what_is_mounted_next_works() {
    let setup = Setup::new();
    let holder = setup.holder(&[]);
    let daemon = setup.daemon(5);
    let readers = Readers::start(&setup, 20);
    readers.more(100);
    holder.kill();
    daemon.kill();
    // Reads give right bytes or an error: the readers compare.
    until("reads fail", || readers.counts().1 > 0);
    let holder = setup.holder(&[]);
    holder.says("dead mounts are detached");
    assert_eq!(setup.mounted(), 1);
    let _daemon = setup.daemon(5);
    readers.more(100);
    readers.end();
    for number in 0..5 {
        read(&setup.made(number), number).expect("the new mount");
    }
}
