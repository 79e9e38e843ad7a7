//! The page in Chromium.

use std::path::{Path, PathBuf};

use larder_tests::fake::{Fault, Match};
use larder_tests::http;
use larder_tests::image::{self, LayerSpec};
use larder_tests::real::Browser;
use larder_tests::scene::Scene;

use crate::pull;

fn url(scene: &Scene) -> String {
    format!("http://{}/", scene.node.telemetry())
}

/// Where the test leaves screenshots for people to look at.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page")
}

/// A node that has served a few images, has downloads under way, and has a registry in trouble.
async fn busy() -> Scene {
    let scene = Scene::new().await;
    let images = [
        ("team/app", "v1.4.2", 700_000),
        ("team/app", "v1.4.3", 900_000),
        (
            "team/a-service-with-quite-a-long-name/worker",
            "2026-11-22-main-0a1b2c3d4e5f",
            300_000,
        ),
        ("library/postgres", "17-alpine", 1_900_000),
        ("library/redis", "8", 90_000),
    ];
    for (seed, (repository, tag, size)) in (1..).zip(images) {
        let layers = [
            LayerSpec::new(seed, size),
            LayerSpec::new(seed + 100, size / 3),
        ];
        image::build(&scene.fake, repository, tag, &layers);
        pull(&scene, repository, tag).await;
    }
    for _ in 0..3 {
        pull(&scene, "library/postgres", "17-alpine").await;
    }
    scene
}

/// Every request of the browser went to the page's port, and its console has no complaint.
async fn assert_clean(browser: &Browser, scene: &Scene) {
    let requests = browser.requests().await.expect("requests");
    assert!(!requests.is_empty());
    for request in &requests {
        assert!(
            request.starts_with(&url(scene)),
            "{request} in {requests:?}"
        );
    }
    let console = browser.console().await.expect("a console");
    assert!(console.is_empty(), "{console:?}");
}

/// In both colour schemes, on a desktop, on a phone and at 200 %, all content is there and readable, and nothing
/// overflows.
#[tokio::test]
async fn it_is_readable_everywhere() {
    let scene = busy().await;
    let sizes = [3_000_000, 5_000_000, 9_000_000];
    let gate = scene.fake.gate(Match::blob(), 1_500_000);
    let mut streams = Vec::new();
    for (seed, size) in (50..).zip(sizes) {
        let digest = scene.fake.put_blob_of("team/app", seed, size);
        let stream = http::open(&scene.blob("team/app", &digest), &[]).await;
        let mut stream = stream.expect("an answer");
        stream.read_exactly(1_000_000).await.expect("the first MB");
        streams.push(stream);
    }
    scene.fake.fault(Match::manifest(), Fault::status(503));
    let browser = Browser::start().await.expect("a browser");
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await.expect("a scheme");
        for (name, width) in [("desk", 1280), ("half", 640), ("phone", 360)] {
            browser.screen(width, 900).await.expect("a screen");
            browser.open(&url(&scene)).await.expect("a page");
            browser
                .until("document.querySelector('#live').textContent === 'Live'")
                .await
                .expect("live");
            browser
                .until("!document.body.innerText.includes('checks are under way')")
                .await
                .expect("findings");
            let over =
                "document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(
                browser.value(over).await.expect("a width"),
                0,
                "{name} {scheme}"
            );
            let wide = browser.value("innerWidth").await.expect("a width");
            assert_eq!(wide, width, "{name} {scheme}");
            let faint = browser.value(CONTRAST).await.expect("contrasts");
            assert_eq!(faint, "", "{name} {scheme}");
            let path = pictures().join(format!("{name}-{scheme}.png"));
            browser.picture(&path).await.expect("a picture");
            let pixels = std::fs::metadata(&path).expect("a picture").len();
            assert!(pixels > 10_000, "{pixels} bytes of {}", path.display());
        }
    }
    // A screen reader finds the page's landmarks, and names for elements without text.
    let unnamed = browser.value(NAMES).await.expect("names");
    assert_eq!(unnamed, "");
    assert_clean(&browser, &scene).await;
    gate.open();
}

/// Texts whose contrast with their background is below 4.5.
const CONTRAST: &str = r#"(() => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("svg, script, noscript, .hidden, .skip")) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.add(`${contrast.toFixed(2)} ${e.className} ${walk.currentNode.data}`);
  }
  return [...faint].join("; ");
})()"#;

/// Missing landmarks, and elements without a name.
const NAMES: &str = r#"(() => {
  const wrong = [];
  for (const part of ["header", "main", "footer", "h1"]) {
    if (document.querySelectorAll(part).length !== 1) wrong.push(part);
  }
  for (const e of document.querySelectorAll("section")) {
    if (!document.getElementById(e.getAttribute("aria-labelledby"))) wrong.push("section " + e.innerText);
  }
  for (const e of document.querySelectorAll("svg[role=img], progress, meter, nav")) {
    if (!e.getAttribute("aria-label")) wrong.push(e.outerHTML);
  }
  for (const e of document.querySelectorAll("input:not([type=hidden])")) if (!e.labels.length) wrong.push(e.outerHTML);
  for (const e of document.querySelectorAll("table")) if (!e.querySelector("th[scope=col]")) wrong.push("table");
  for (const e of document.querySelectorAll("th")) if (!e.scope) wrong.push(e.outerHTML);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id twice");
  return wrong.join("; ");
})()"#;

/// Sorting, filtering, the chart's span and the pause work without a reload of the page.
#[tokio::test]
async fn it_can_be_sorted_filtered_and_paused() {
    let scene = busy().await;
    let browser = Browser::start().await.expect("a browser");
    browser.open(&url(&scene)).await.expect("a page");
    browser.value("window.loaded = true").await.expect("a mark");
    let names =
        "[...document.querySelectorAll('.images tbody .name')].map(e => e.innerText).join()";
    let all = browser.value(names).await.expect("names");
    assert_eq!(
        all.as_str().map(|names| names.split(',').count()),
        Some(5),
        "{all}"
    );
    browser
        .click("th a[href*='sort=name']")
        .await
        .expect("a click");
    let sorted = "library/postgres,library/redis,team/a-service-with-quite-a-long-name/worker,team/app,team/app";
    browser
        .until(&format!("{names} === '{sorted}'"))
        .await
        .expect("sorted");
    let arrow = "document.querySelector('th[aria-sort=ascending]').innerText.startsWith('Image')";
    assert_eq!(browser.value(arrow).await.expect("a heading"), true);
    browser
        .click("th a[href*='sort=name']")
        .await
        .expect("a click");
    browser
        .until(&format!("{names}.startsWith('team/app,')"))
        .await
        .expect("the other way round");

    browser.click("#filter").await.expect("a click");
    browser.type_text("redis").await.expect("letters");
    browser
        .until(&format!("{names} === 'library/redis'"))
        .await
        .expect("filtered");
    let kept = "document.activeElement.id + document.activeElement.value + location.search";
    let kept = browser.value(kept).await.expect("the focus");
    let kept = kept.as_str().unwrap_or_default();
    assert!(
        kept.starts_with("filterredis?") && kept.contains("filter=redis"),
        "{kept}"
    );

    browser
        .click("a[href*='span=hour']")
        .await
        .expect("a click");
    let current = "document.querySelector('.tabs [aria-current]').innerText === '1 h'";
    browser.until(current).await.expect("the last hour");
    browser
        .until(&format!("{names} === 'library/redis'"))
        .await
        .expect("the filter stays");

    browser.click("#pause").await.expect("a click");
    browser
        .until("document.querySelector('#live').textContent === 'Paused'")
        .await
        .expect("paused");
    browser.requests().await.expect("requests");
    // Another visitor sees the next image. By then this page would have asked for it, if it asked at all.
    image::build(
        &scene.fake,
        "team/redis-too",
        "v9",
        &[LayerSpec::new(77, 50_000)],
    );
    pull(&scene, "team/redis-too", "v9").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !http::get(&url(&scene), &[])
        .await
        .expect("an answer")
        .text()
        .contains("team/redis-too")
    {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let asked = browser.requests().await.expect("requests");
    assert_eq!(asked, Vec::<String>::new());
    browser.click("#pause").await.expect("a click");
    browser
        .until(&format!("{names}.includes('team/redis-too')"))
        .await
        .expect("live again");
    assert_eq!(
        browser.value("window.loaded").await.expect("the mark"),
        true
    );
    assert_clean(&browser, &scene).await;
}

/// A download begins, moves and ends on a page that was opened before.
#[tokio::test]
async fn a_pull_is_seen_to_move() {
    let scene = Scene::new().await;
    let browser = Browser::start().await.expect("a browser");
    browser.open(&url(&scene)).await.expect("a page");
    browser
        .until("document.body.innerText.includes('None. What is pulled next')")
        .await
        .expect("nothing yet");
    // A stalled answer is asked for again where it stopped, and brings as many bytes again. So the test only checks
    // that the bar moves, and is not at its end before the gate opens.
    let digest = scene.fake.put_blob_of("team/app", 9, 15_000_000);
    let gate = scene.fake.gate(Match::blob(), 1_000_000);
    let address = scene.blob("team/app", &digest);
    let reading = tokio::spawn(async move { http::get_digest(&address, &[]).await });
    let bar = "document.querySelector('.fills progress')";
    browser
        .until(&format!("{bar}?.value >= 1000000"))
        .await
        .expect("the first MB");
    let amount = browser
        .value("document.querySelector('.fills li').innerText")
        .await
        .expect("a download");
    let amount = amount.as_str().unwrap_or_default();
    let named = format!("{}/team/app", scene.fake.host());
    assert!(
        amount.contains(" of 14.3 MiB") && amount.contains(&named),
        "{amount}"
    );
    browser
        .value(&format!("{bar}.mark = {bar}.value"))
        .await
        .expect("a mark");
    for bytes in [1_200_000, 1_400_000] {
        gate.let_through(bytes);
        // The same bar moves; it is not replaced.
        browser
            .until(&format!("{bar}.value > {bar}.mark"))
            .await
            .expect("more");
        browser
            .value(&format!("{bar}.mark = {bar}.value"))
            .await
            .expect("a mark");
    }
    let whole = browser.value(&format!("{bar}.value")).await;
    assert!(whole.expect("a value").as_u64() < Some(15_000_000));
    let rate = "document.querySelector('.fills .rate').innerText.includes('/s')";
    browser.until(rate).await.expect("a rate");
    gate.open();
    let read = reading.await.expect("a reader").expect("an answer");
    assert_eq!(read.digest, digest);
    browser
        .until("!document.querySelector('.fills')")
        .await
        .expect("the end");
    browser
        .until("document.querySelector('.tiles').innerText.includes('1 blob')")
        .await
        .expect("it is held");
    assert_clean(&browser, &scene).await;

    // What the page shows when larder stops.
    drop(scene);
    browser
        .until("document.querySelector('#live').textContent === 'Not connected'")
        .await
        .expect("told");
}

/// Without scripts the page has the same content, and its links and its form work the same.
#[tokio::test]
async fn it_works_without_scripts() {
    let scene = busy().await;
    let browser = Browser::start().await.expect("a browser");
    let off = serde_json::json!({ "value": true });
    browser
        .protocol("Emulation.setScriptExecutionDisabled", off)
        .await
        .expect("no scripts");
    browser.open(&url(&scene)).await.expect("a page");
    for words in [
        "Held on this node",
        "library/postgres",
        "17-alpine",
        "Findings",
        "Reload",
    ] {
        let says = browser
            .value(&format!("document.body.innerText.includes('{words}')"))
            .await;
        assert_eq!(says.expect("a page"), true, "{words}");
    }
    assert_eq!(
        browser
            .value("document.querySelector('#pause').hidden")
            .await
            .expect("a button"),
        true
    );
    let names =
        "[...document.querySelectorAll('.images tbody .name')].map(e => e.innerText).join()";
    browser
        .value("document.querySelector(\"th a[href*='sort=name']\").click()")
        .await
        .expect("a click");
    browser
        .until("location.search === '?sort=name'")
        .await
        .expect("a link followed");
    browser
        .until(&format!(
            "{names}.startsWith('library/postgres,library/redis')"
        ))
        .await
        .expect("sorted");
    browser
        .value("document.querySelector('#filter').value = 'postgres'")
        .await
        .expect("a filter");
    browser
        .value("document.querySelector('form button').click()")
        .await
        .expect("a click");
    browser
        .until("location.search.includes('filter=postgres')")
        .await
        .expect("a form sent");
    browser
        .until(&format!("{names} === 'library/postgres'"))
        .await
        .expect("filtered");
    assert_clean(&browser, &scene).await;
}
