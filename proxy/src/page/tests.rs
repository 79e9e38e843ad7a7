//! The page as a whole: names from outside are escaped, and the page stays small.

use larder_shared::{
    Digest,
    admin::{Diagnosis, Image, Images, ReadyLayers, Severity, Status, Upstream},
};
use serde_json::{from_value, json};

use super::*;

const EVIL: &str = "</td><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;";

fn image(number: u64) -> Image {
    Image {
        registry: "ghcr.io".to_owned(),
        repository: format!("team/app-{number}"),
        digest: Digest::sha256(&number.to_le_bytes()),
        tags: vec![format!("v{number}")],
        media_type: String::new(),
        bytes: number,
        present_bytes: number,
        blobs: 2,
        present_blobs: 2,
        pinned: false,
        in_use: false,
        public: true,
        last_used: number,
        ready: None,
    }
}

/// A view in which every string from outside is `word`.
fn view(word: &str, images: Vec<Image>) -> View {
    let digest = Digest::sha256(b"").to_string();
    let status: Status = from_value(json!({
        "version": word, "uptime_seconds": 1,
        "listen": { "registry": word, "telemetry": word, "peers": word },
        "store": { "path": word, "blobs": 1, "bytes": 1, "max_bytes": 10, "free_bytes": 1, "state": word },
        "fills": [{ "digest": digest, "present_bytes": 1, "size_bytes": 2, "readers": 1, "repository": word }],
        "upstreams": [],
        "served": { "requests": 1, "node_bytes": 1, "upstream_bytes": 1 },
        "cluster": {
            "members": [{ "address": word, "own": false, "state": word }],
            "received_bytes": 1, "sent_bytes": 1, "distrusted": 1,
        },
        "object_store": {
            "url": word, "waiting": 1, "waiting_bytes": 1, "written": 1, "already_there": 1, "dropped": 1,
            "last_error": word,
        },
    }))
    .expect("a status");
    let upstream: Upstream = from_value(json!({
        "registry": word, "configured": true, "repositories": 1, "access": "shared", "findings": [word],
        "endpoints": [{
            "url": word, "state": word, "silent_seconds": 3,
            "rate_limits": [{ "credential": true, "limit": 100, "remaining": 7 }],
        }],
    }))
    .expect("an upstream");
    let image = json!({
        "image": word, "digest": word, "tags": [word], "state": "failed", "why": word, "error": word,
    });
    let set: SetStatus = from_value(json!({
        "name": word, "labels": {}, "common_cache": [], "all_images": [], "available_images": [],
        "desired_images": [], "images_to_cache": [], "matches": true, "images": [image], "left": [image],
        "sources": [], "nodes": [], "listed_at": 1, "error": word,
    }))
    .expect("a set");
    let finding =
        |severity| json!({ "check": word, "severity": severity, "found": word, "mend": word });
    let severities = [Severity::Ok, Severity::Warning, Severity::Error].map(finding);
    let diagnosis: Diagnosis = from_value(json!({ "findings": severities })).expect("a diagnosis");
    let sample = Sample {
        node_bytes: 1,
        cluster_bytes: 1,
        upstream_bytes: 1,
        hits: 1,
        misses: 1,
    };
    View {
        host: word.to_owned(),
        status: Arc::new(status),
        images: Arc::new(Listing {
            images: Images { images },
            revision: 1,
        }),
        upstreams: Arc::new(vec![upstream]),
        sets: Arc::new(vec![set]),
        diagnosis: Checked::Found {
            diagnosis: Arc::new(diagnosis),
            seconds: 1,
        },
        total: sample,
        columns: vec![sample; 3],
        now: 20_000,
        query: Query::default(),
    }
}

#[test]
fn every_word_of_others_is_text() {
    let mut evil = image(1);
    EVIL.clone_into(&mut evil.registry);
    EVIL.clone_into(&mut evil.repository);
    evil.tags = vec![EVIL.to_owned(); 9];
    evil.ready = Some(ReadyLayers {
        layers: 2,
        ready: 1,
        missing: Vec::new(),
        why: Some(EVIL.to_owned()),
    });
    let mut view = view(EVIL, vec![evil]);
    EVIL.clone_into(&mut view.query.filter);
    let filtered = document(&view);
    view.query.filter.clear();
    for page in [document(&view), live(&view, &Known::default()), filtered] {
        assert!(
            !page.contains("<script>") && !page.contains("<img"),
            "{page}"
        );
        // Escaped exactly once: an entity in the input is shown as its text.
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains("&amp;lt;"), "{page}");
    }
    // The word is shown at every place of the view.
    let shown = document(&view).matches("&lt;script&gt;alert(1)").count();
    assert!(shown >= 20, "{shown}");
}

#[test]
fn ten_thousand_images_are_leafed_through() {
    let mut view = view("word", (0..10_000).map(image).collect());
    let first = document(&view);
    assert!(first.len() < 100_000, "{} bytes", first.len());
    assert!(first.contains("Page 1 of 200 pages"), "{first}");
    assert!(first.contains("team/app-9999<") && !first.contains("team/app-9949<"));
    view.query.leaf = 199;
    let last = document(&view);
    assert!(
        last.contains("team/app-0<") && !last.contains("rel=\"next\""),
        "{last}"
    );
    // A page beyond the last shows the last.
    view.query.leaf = 5_000;
    assert!(document(&view).contains("team/app-0<"));
    view.query = Query::parse("filter=app-77&page=2");
    let found = document(&view);
    assert!(
        found.contains("111 of 10,000") && found.contains("Page 2 of 3 pages"),
        "{found}"
    );
}

#[test]
fn what_the_browser_has_is_not_sent_again() {
    let mut view = view("word", vec![image(1)]);
    let known = |page: &str| {
        let sections = page.split("<div id=\"").skip(1).filter_map(|rest| {
            let (id, rest) = rest.split_once("\" data-revision=\"")?;
            Some(format!("{id}-{}", rest.split_once('"')?.0))
        });
        Known::parse(&sections.collect::<Vec<_>>().join(","))
    };
    let known = known(&live(&view, &Known::default()));
    let again = live(&view, &known);
    assert_eq!(again.matches("data-kept").count(), 9, "{again}");
    assert!(again.len() < 500, "{again}");
    view.query.filter = "x".to_owned();
    view.diagnosis = Checked::Looking;
    let changed = live(&view, &known);
    // The chart's links carry the filter, so the chart changes too.
    assert_eq!(changed.matches("data-kept").count(), 6, "{changed}");
    assert!(
        changed.contains("No image matches") && changed.contains("under way"),
        "{changed}"
    );
}
