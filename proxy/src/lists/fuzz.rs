//! Answers of registries, their clouds' APIs and members that are asked for a list: see [`crate::fuzz`].

use super::{
    Told,
    answers::{Malformed, acr, ecr, gar, tags},
    gather::{Gathered, MOST},
    kept::{Kept, Known},
};

/// A page of any kind of list, or a member's answer.
pub(crate) fn answers(bytes: &[u8]) {
    let registry = "us-docker.pkg.dev".parse();
    let repository = "p/r/lab".parse();
    let named = registry.ok().zip(repository.ok());
    let named = named.and_then(|(registry, repository)| gar::Named::of(&registry, &repository));
    let mut gathered = Gathered::default();
    let mut pages = vec![
        tags::page(bytes, &mut gathered),
        acr::page(bytes, &mut gathered),
        ecr::page(bytes, &mut gathered).map(drop),
    ];
    if let Some(named) = named {
        pages.push(gar::page(bytes, &named, &mut gathered).map(drop));
    }
    for page in pages {
        // No error repeats a part of the answer.
        if let Err(Malformed::Form(what)) = page {
            assert!(
                what.starts_with("not JSON") || what.starts_with("JSON, but"),
                "{what}"
            );
        }
    }
    let listing = gathered.listing();
    assert!(listing.tags.len() <= MOST);
    assert!(listing.tags.is_sorted_by(|a, b| a.tag < b.tag));
    if let Some(word) = ecr::word(bytes) {
        assert!(word.len() <= 80 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
    if let Ok(told) = serde_json::from_slice::<Told>(bytes) {
        let now = 1_700_000_000;
        let (known, trouble) = told.understood(None, Some("10.0.0.1:7422"), now);
        if let Some(trouble) = &trouble {
            assert!(trouble.why.len() <= 500 && !trouble.why.contains(char::is_control));
            assert!(trouble.since <= now);
        }
        if let Some(known) = known {
            assert!(known.at <= now);
            assert!(known.listing.tags.is_sorted_by(|a, b| a.tag < b.tag));
            // A list that is handed on is understood in the same way.
            let again = Told::of(&Kept::of(Some(known.clone()), None), None);
            let (same, _) = again.understood(None, None, now);
            assert_eq!(same.as_ref().map(Known::name), Some(known.name()));
        }
    }
}
