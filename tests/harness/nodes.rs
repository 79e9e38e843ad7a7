//! A node that cannot start says why. Every test of the program itself shows that it can start.

use larder_tests::node::{Node, NodeBuilder};

async fn complaint(builder: NodeBuilder) -> String {
    let started = tokio::spawn(async move { drop(builder.start().await) });
    let panic = started.await.expect_err("a start that fails").into_panic();
    *panic.downcast::<String>().expect("a message")
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let message = complaint(Node::builder().program("/nowhere/larder")).await;
    assert!(message.contains("/nowhere/larder"), "{message}");
}

#[tokio::test]
async fn a_program_that_ends_at_once_leaves_its_log() {
    // `ls` refuses the daemon's arguments on its standard error.
    let message = complaint(Node::builder().program("/bin/ls")).await;
    assert!(
        message.contains("ended at once") && message.contains("--store"),
        "{message}"
    );
}
