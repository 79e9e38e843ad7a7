//! How a token is used while its server does not answer: with a real client, and a port on which no process listens.

use std::net::TcpListener;

use super::*;
use crate::credentials::{Secret, file};

/// A port that was free a moment ago: connections there are refused.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    format!("http://127.0.0.1:{port}")
}

fn token(text: &str, lifetime: Duration) -> Token {
    Token {
        credential: Credential::Basic {
            username: "oauth2accesstoken".to_owned(),
            password: Secret::new(text),
        },
        principal: Some("larder@p".to_owned()),
        lifetime,
        early: Early::Half,
    }
}

/// The old token is used while its renewal fails, and not after its end. Then the failure is the answer, at once.
#[tokio::test]
async fn the_old_token_is_used_while_its_renewal_fails() {
    let client = Arc::new(Client::new());
    let clouds = Clouds::new(client, Surroundings::default(), &file::room());
    let mut identity = CloudIdentity::of(Cloud::Google);
    identity.metadata_endpoint = Some(nobody().parse().unwrap());
    let origin = Endpoint::parse("https://us-docker.pkg.dev").unwrap();
    let asked = &clouds.asked(&identity, "us-docker.pkg.dev", &origin);
    let key = Key::of(asked).unwrap();
    let minute = Duration::from_mins(1);
    // The token came some time ago.
    let age = |age: u64| {
        let came = Instant::now()
            .checked_sub(Duration::from_secs(age))
            .unwrap();
        let mut all = clouds.0.lock();
        let known = all.entry(key.clone()).or_default();
        known.token = Some(token("the old one", minute));
        known.renewal.fetched(came, minute, Early::Half, 0.0);
    };
    age(40);
    for _ in 0..3 {
        let (credential, known_as) = clouds.credential(asked).await.unwrap();
        assert_eq!(credential, token("the old one", minute).credential);
        assert_eq!(known_as.principal.as_deref(), Some("larder@p"));
    }
    // The exchange that was begun in the background has failed.
    let failed = Arc::clone(&clouds.0).fetch(key.clone()).await.unwrap_err();
    assert_eq!(failed.fault(), Fault::Unreachable);
    let view = clouds.view(asked);
    assert!(
        view.left.is_some_and(|left| left.as_secs() >= 15),
        "{view:?}"
    );
    assert!(
        view.trouble
            .is_some_and(|why| why.contains("the metadata server"))
    );
    assert!(clouds.credential(asked).await.is_ok());

    age(60);
    let ended = clouds.credential(asked).await.unwrap_err();
    assert_eq!(ended.fault(), Fault::Unreachable);
    assert!(clouds.view(asked).left.is_none());
    assert_eq!(clouds.0.next(&key).0, Next::Fail);
    clouds.hurry(asked);
    assert_eq!(clouds.0.next(&key).0, Next::Fetch);

    // An identity that the configuration does not name any more is forgotten.
    clouds.tend([].into_iter());
    assert!(clouds.0.lock().is_empty());
}
