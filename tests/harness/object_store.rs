//! SeaweedFS as the tests start it.

use anyhow::Result;
use larder_tests::real::SeaweedFs;

#[tokio::test]
async fn a_bucket_keeps_what_it_is_given_and_its_ports() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut store = SeaweedFs::start(&dir.path().join("weed")).await?;
    let endpoint = store.endpoint();
    assert_eq!(store.get("a/1").await?, None);
    assert_eq!(store.create("a/1", b"one").await?, 200);
    assert_eq!(store.create("a/1", b"two").await?, 412, "it is there");
    assert_eq!(store.put("a/2", b"two").await?, 200);
    assert_eq!(store.put("b", b"").await?, 200);
    assert_eq!(store.get("a/1").await?.as_deref(), Some(&b"one"[..]));
    assert_eq!(store.keys("a/").await?, ["a/1", "a/2"]);

    store.stop();
    assert!(store.pid().is_none());
    assert_eq!(store.put("c", b"c").await?, 0, "nobody answers");
    store.start_again().await?;
    assert_eq!(store.endpoint(), endpoint);
    assert_eq!(store.get("a/2").await?.as_deref(), Some(&b"two"[..]));
    Ok(())
}

#[tokio::test]
async fn nobody_else_is_let_in() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = SeaweedFs::start(dir.path()).await?;
    let url = format!("{}/{}/.up", store.endpoint(), SeaweedFs::BUCKET);
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    let output = curl.output().await?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "403");
    assert_eq!(store.get(".up").await?.as_deref(), Some(&b"up"[..]));
    Ok(())
}
