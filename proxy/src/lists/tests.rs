//! Lists from registries and their clouds' APIs, with a real client and servers on loopback. These servers check little
//! of a request; the black-box tests have strict ones.

mod clouds;
mod server;

use larder_shared::warm::ListBy;

use self::server::{Asked, Reply, Server};
use super::*;
use crate::{client::Client, cluster::records::PeerRecords, credentials::Settings};

/// Lists of a node whose configuration has these lines, with a store at `dir`.
fn lists(dir: &std::path::Path, config: &str) -> Arc<Lists> {
    let config = Config::parse(config, std::path::Path::new("t")).unwrap();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let (client, metrics) = (Arc::new(Client::new()), Arc::new(Metrics::new()));
    let upstreams = Upstreams::new(
        Arc::clone(&config),
        Arc::clone(&client),
        Arc::clone(&metrics),
    );
    let records = PeerRecords::new(dir.join("records"));
    let cluster = Cluster::new(Arc::clone(&config), Arc::clone(&metrics), &client, records);
    let mut lists = Lists::new(Parts {
        config,
        upstreams: Arc::new(upstreams),
        credentials: Arc::new(Credentials::new(Settings::default(), &client)),
        key: Arc::new(Key::load(&dir.join("key")).unwrap()),
        cluster: cluster.unwrap(),
        store: Store::open(&dir.join("store")).unwrap(),
        metrics,
    });
    Arc::get_mut(&mut lists).unwrap().soonest = Duration::ZERO;
    lists
}

/// The configuration of a registry at `server`, with more lines of its table.
fn upstream(name: &str, server: &Server, more: &str) -> String {
    let url = server.url();
    format!("[upstreams.\"{name}\"]\nendpoints = [\"{url}\"]\n{more}")
}

fn wanted(registry: &str, by: ListBy) -> Wanted {
    Wanted {
        registry: registry.parse().unwrap(),
        repository: "p/r/lab".parse().unwrap(),
        by,
    }
}

async fn refreshed(lists: &Arc<Lists>, wanted: &Wanted) -> Kept {
    lists.refresh(wanted, Duration::ZERO).await
}

/// The list's tags by name. A tag with a digest has a `+`.
fn tags(kept: &Kept) -> String {
    let Some(list) = &kept.list else {
        return "none".to_owned();
    };
    let tags = list.listing.tags.iter().map(|tag| {
        let digest = if tag.digest.is_some() { "+" } else { "" };
        format!("{}{digest}", tag.tag)
    });
    tags.collect::<Vec<_>>().join(" ")
}

fn why(kept: &Kept) -> String {
    kept.trouble
        .as_ref()
        .map_or_else(String::new, |trouble| trouble.why.clone())
}

const PATH: &str = "/v2/p/r/lab/tags/list";

/// Three pages, the oldest tags first, as GHCR writes them. A registry that refuses `n` is not asked with it again.
#[tokio::test]
async fn all_pages_and_no_number_where_none_is_taken() {
    let server = Server::start(|asked: &Asked| {
        if asked.path != PATH {
            return Reply::new(404, "");
        }
        if asked.query.contains("n=") {
            return Reply::new(400, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#);
        }
        let (tag, next) = match asked.query.as_str() {
            "" => ("w_1", Some("w_1")),
            "last=w_1" => ("w_2", Some("w_2")),
            _ => ("w_3", None),
        };
        let reply = Reply::new(200, &format!(r#"{{"name":"p/r/lab","tags":["{tag}"]}}"#));
        match next {
            Some(last) => reply.with("link", &format!("<{PATH}?last={last}>; rel=\"next\"")),
            None => reply,
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let wanted = wanted("r.test", ListBy::Auto);
    let kept = refreshed(&lists, &wanted).await;
    assert_eq!(tags(&kept), "w_1 w_2 w_3", "{}", why(&kept));
    let queries = |asked: &[Asked]| asked.iter().map(|a| a.query.clone()).collect::<Vec<_>>();
    assert_eq!(
        queries(&server.asked()),
        ["n=1000", "", "last=w_1", "last=w_2"]
    );
    refreshed(&lists, &wanted).await;
    assert_eq!(queries(&server.asked()[4..]), ["", "last=w_1", "last=w_2"]);
}

/// With the digests that Google's registries add to the list, one GET suffices.
#[tokio::test]
async fn digests_come_with_the_list_where_a_registry_gives_them() {
    let digest = Digest::sha256(b"image").to_string();
    let body = format!(
        r#"{{"name":"p/r/lab","tags":["w_1","recommended"],"manifest":{{"{digest}":{{"imageSizeBytes":"9","tag":["w_1","recommended"],"timeUploadedMs":"1700000000000"}}}}}}"#
    );
    let server = Server::start(move |_: &Asked| Reply::new(200, &body)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let kept = refreshed(&lists, &wanted("r.test", ListBy::Auto)).await;
    assert_eq!(tags(&kept), "recommended+ w_1+", "{}", why(&kept));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].method.as_str(), asked[0].path.as_str()),
        ("GET", PATH)
    );
    let list = kept.list.unwrap();
    assert!(!list.private && list.by.is_none());
}

/// If pages lead back, to another host or nowhere, or are invalid, there is no new list, and the last one stays.
#[tokio::test]
async fn a_list_that_makes_no_sense_leaves_the_last_one() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let wanted = wanted("r.test", ListBy::Auto);
    assert_eq!(tags(&refreshed(&lists, &wanted).await), "w_1");
    let page = |link: &'static str| {
        move |_: &Asked| Reply::new(200, r#"{"tags":["w_2"]}"#).with("link", link)
    };
    let mut since = None;
    let mut check = async |word: &str| {
        let kept = refreshed(&lists, &wanted).await;
        assert_eq!(tags(&kept), "w_1", "{word}");
        assert!(
            why(&kept).contains(word),
            "{word:?} is not in {:?}",
            why(&kept)
        );
        let trouble = kept.trouble.unwrap().since;
        assert_eq!(
            *since.get_or_insert(trouble),
            trouble,
            "since when, it says once"
        );
    };
    server.answer(page("</v2/p/r/lab/tags/list?last=w_2>; rel=\"next\""));
    check("in a circle").await;
    server.answer(page(
        "<https://evil.test/v2/p/r/lab/tags/list?last=w_2>; rel=\"next\"",
    ));
    check("another host").await;
    server.answer(page("</v2/p/r/lab/tags/list>; rel=\"next\""));
    check("no place").await;
    server.answer(|_: &Asked| Reply::new(200, "<html>sign in</html>"));
    check("not JSON").await;
    server.answer(|_: &Asked| Reply::new(200, r#"{"message":"hunter2"}"#));
    check("JSON, but no list").await;
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.path == PATH), "{asked:?}");
    server.answer(|_: &Asked| Reply::new(200, r#"{"tags":["w_3"]}"#));
    let kept = refreshed(&lists, &wanted).await;
    assert_eq!((tags(&kept), kept.trouble), ("w_3".to_owned(), None));
}

/// A registry that limits requests is not asked for the time that it names.
#[tokio::test]
async fn a_registry_that_limits_requests_is_not_asked_meanwhile() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let wanted = wanted("r.test", ListBy::Auto);
    refreshed(&lists, &wanted).await;
    server.answer(|_: &Asked| Reply::new(429, "").with("retry-after", "3000"));
    for _ in 0..3 {
        let kept = refreshed(&lists, &wanted).await;
        assert_eq!(tags(&kept), "w_1");
        assert!(why(&kept).contains("limits requests"), "{}", why(&kept));
    }
    assert_eq!(server.asked().len(), 2);
}

/// A node without the right to list may still have the right to pull: the message says so. The last list stays for
/// three refreshes.
#[tokio::test]
async fn a_refusal_names_the_right_and_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("user", "larder"), ("pass", "hunter2")] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let server = Server::start(|asked: &Asked| match asked.header("authorization") {
        None => Reply::new(401, r#"{"errors":[]}"#).with("www-authenticate", "Basic realm=\"r\""),
        Some(_) => Reply::new(200, r#"{"tags":["w_1"]}"#),
    })
    .await;
    let files = format!(
        "credentials = {{ username_file = \"{0}/user\", password_file = \"{0}/pass\" }}",
        dir.path().display()
    );
    let lists = lists(dir.path(), &upstream("r.test", &server, &files));
    let wanted = wanted("r.test", ListBy::Auto);
    let kept = refreshed(&lists, &wanted).await;
    assert_eq!(tags(&kept), "w_1", "{}", why(&kept));
    // A list that needed a credential is given only to members with certificates.
    assert!(kept.list.unwrap().private);
    assert_eq!(lists.tell(&wanted.thing(), None, None).await, None);
    server.answer(|_: &Asked| {
        Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"hunter2"}]}"#)
    });
    for expected in ["w_1", "w_1", "w_1", "none", "none"] {
        let kept = refreshed(&lists, &wanted).await;
        assert_eq!(tags(&kept), expected);
        let why = why(&kept);
        assert!(why.contains("does not let this node list"), "{why}");
        assert!(why.contains("`tags`") && !why.contains("hunter2"), "{why}");
    }
    let labels = crate::metrics::ListsAsked {
        outcome: ListOutcome::Refused,
    };
    let refused = lists.metrics.lists.asked.get_or_create(&labels).get();
    assert_eq!(refused, 5);
}

/// If a registry suddenly lists nothing, that is not believed at once.
#[tokio::test]
async fn an_emptied_repository_is_believed_the_fourth_time() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let wanted = wanted("r.test", ListBy::Auto);
    refreshed(&lists, &wanted).await;
    server.answer(|_: &Asked| Reply::new(200, r#"{"tags":null}"#));
    for expected in ["w_1", "w_1", "w_1", ""] {
        assert_eq!(tags(&refreshed(&lists, &wanted).await), expected);
    }
}

/// A node that starts while the registry is down knows the last list, and since when there is no newer one.
#[tokio::test]
async fn the_last_list_outlives_a_restart() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let config = upstream("r.test", &server, "");
    let wanted = wanted("r.test", ListBy::Auto);
    let at = {
        let lists = lists(dir.path(), &config);
        let kept = refreshed(&lists, &wanted).await;
        kept.list.unwrap().at
    };
    server.answer(|_: &Asked| Reply::new(500, "hunter2"));
    {
        let lists = lists(dir.path(), &config);
        assert_eq!(tags(&lists.known(&wanted).await), "w_1");
        let kept = refreshed(&lists, &wanted).await;
        assert_eq!(tags(&kept), "w_1");
        assert_eq!(kept.list.as_ref().unwrap().at, at);
        assert!(why(&kept).contains("cannot be reached"), "{}", why(&kept));
        assert!(!why(&kept).contains("hunter2"), "{}", why(&kept));
    }
    let lists = lists(dir.path(), &config);
    let kept = lists.known(&wanted).await;
    assert!(why(&kept).contains("cannot be reached"), "{}", why(&kept));
    // If no set names a list any more, its file is removed.
    lists.want(&[]).await;
    let left = std::fs::read_dir(dir.path().join("store/lists")).unwrap();
    assert_eq!(left.count(), 0);
}

/// Simultaneous callers share one request, and a list that is new enough is not asked for again.
#[tokio::test]
async fn a_list_is_asked_for_once_in_a_refresh() {
    let server = Server::start(|_: &Asked| Reply::new(200, r#"{"tags":["w_1"]}"#)).await;
    let dir = tempfile::tempdir().unwrap();
    let lists = lists(dir.path(), &upstream("r.test", &server, ""));
    let wanted = wanted("r.test", ListBy::Auto);
    let hour = Duration::from_hours(1);
    let both = tokio::join!(lists.refresh(&wanted, hour), lists.refresh(&wanted, hour));
    assert_eq!((tags(&both.0), tags(&both.1)), ("w_1".into(), "w_1".into()));
    lists.refresh(&wanted, hour).await;
    assert_eq!(server.asked().len(), 1);
    // A member that asks gets the list. If it has the same list, only the generation is sent.
    let thing = wanted.thing();
    let told = lists.tell(&thing, None, Some(hour)).await.unwrap();
    assert!(told.listing.is_some() && !told.pending);
    let known = told.generation;
    let told = lists.tell(&thing, Some(&known), Some(hour)).await.unwrap();
    assert!(told.listing.is_none() && told.generation == known);
    assert_eq!(server.asked().len(), 1);
    // A node tells nothing about a list that no set of its own names.
    let other = Digest::sha256(b"other");
    assert_eq!(lists.tell(&other, None, Some(hour)).await, None);
    // With `off`, no registry is asked.
    let off = self::wanted("r.test", ListBy::Off);
    assert_eq!(lists.refresh(&off, Duration::ZERO).await, Kept::default());
    assert_eq!(server.asked().len(), 1);
}
