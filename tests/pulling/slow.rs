//! What a slow source costs: bytes that come in small pieces are written, hashed and announced in larger ones.
//!
//! Counted are turns of threads, which are what such a download costs. The machine's speed does not matter: on a busy machine
//! more bytes come together, and the turns become fewer.

use std::fs;

use larder_tests::fake::{Fault, Match, expected};
use larder_tests::http;
use larder_tests::scene::Scene;

const MB: u64 = 1_000_000;

/// How often a thread of the process has given up the processor because it had nothing to do.
fn turns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let of = |task: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    tasks.flatten().filter_map(of).sum()
}

#[tokio::test]
async fn a_slow_source_costs_few_turns_of_threads_for_each_megabyte() {
    let scene = Scene::new().await;
    let size = 48 * MB;
    let digest = scene.fake.put_blob_of("a/b", 1, size);
    // 40 kB, fifty times a second, on each of the streams.
    scene
        .fake
        .fault(Match::blob(), Fault::ThrottleBytesPerSecond(2 * MB));
    let before = turns(scene.node.pid());
    let answer = http::get(&scene.blob("a/b", &digest), &[]).await;
    let answer = answer.expect("an answer");
    let turns = turns(scene.node.pid()) - before;
    assert!(answer.body == expected(1, 0..size), "the blob is right");
    let each = turns / (size / MB);
    eprintln!("{each} turns for each MB");
    assert!(each <= 110, "{turns} turns of threads, {each} for each MB");
}
