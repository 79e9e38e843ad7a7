//! Answers of clouds' servers to any question: see [`crate::fuzz`]. No word that may be shown contains the `~` of the
//! secret.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{
    ask::Answer,
    aws, google,
    jwt::Claims,
    renewal::{Early, Next, Renewal},
};

pub(in crate::credentials) fn answers(bytes: &[u8]) {
    for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
        let answer = Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(bytes),
        };
        let mut troubles = aws::troubles(&answer);
        match google::token(&answer, "the server", None, Early::End) {
            Err(trouble) => troubles.push(trouble),
            Ok(token) => {
                let (now, mut renewal) = (Instant::now(), Renewal::default());
                renewal.fetched(now, token.lifetime, token.early, 0.5);
                assert_ne!(renewal.next(now), Next::Fail);
                let shown = format!("{:?}", token.credential);
                assert!(!shown.contains("hunter2~"), "{shown}");
            }
        }
        for trouble in troubles {
            let said = format!("{trouble:?} {}", trouble.error);
            assert!(!said.contains("hunter2~"), "{said}");
        }
    }
    if let Some(claims) = Claims::of(&String::from_utf8_lossy(bytes)) {
        let shown = claims.word("sub").unwrap_or_default();
        assert!(shown.len() <= 256 && shown.is_ascii());
        let _ = claims.left();
    }
}
