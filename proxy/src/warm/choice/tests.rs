use std::time::Duration;

use larder_shared::warm::ListBy;
use proptest::prelude::*;

use super::*;
use crate::config::Newest;

fn tag(text: &str) -> Tag {
    text.parse().expect(text)
}

fn digest(of: &str) -> Digest {
    Digest::sha256(of.as_bytes())
}

fn source(tags: &[&str], newest: &[(&str, usize)], skip: &[&str]) -> FromRepository {
    FromRepository {
        registry: "r.io".parse().expect("a registry"),
        repository: "labs/lab".parse().expect("a repository"),
        list: ListBy::Auto,
        tags: tags.iter().map(|text| tag(text)).collect(),
        newest: newest
            .iter()
            .map(|(pattern, count)| Newest {
                pattern: pattern.parse().expect(pattern),
                count: *count,
            })
            .collect(),
        skip: skip.iter().map(|text| text.parse().expect(text)).collect(),
        max_age: None,
    }
}

/// `tag`, or `tag=name`, where the name stands for a digest.
fn listing(tags: &[&str]) -> Listing {
    let listed = tags.iter().map(|text| {
        let (name, of) = text.split_once('=').unwrap_or((text, ""));
        ListedTag {
            tag: tag(name),
            digest: (!of.is_empty()).then(|| digest(of)),
            size: None,
            pushed: None,
        }
    });
    Listing {
        tags: listed.collect(),
        complete: true,
    }
}

fn chosen(choice: &Choice) -> Vec<String> {
    let words = choice.images.iter().map(|image| {
        let tags = image.tags.iter().map(ToString::to_string);
        tags.collect::<Vec<_>>().join("+")
    });
    words.collect()
}

const LIST: &[&str] = &[
    "d_2026_11_01=A",
    "d_2026_11_02=B",
    "latest=C",
    "r27_0_0=D",
    "r9_1_0=E",
    "recommended=F",
    "w_2026_45=G",
    "w_2026_46=F",
    "w_2026_47=H",
    "w_2026_47_rsp3=H",
    "w_2026_9=I",
    "w_2026_48-arm64=J",
];

#[test]
fn named_tags_come_first_then_the_newest_by_number_and_by_image() {
    for (name, source, wanted) in [
        (
            "a named tag shows the tags that are the same image",
            source(&["recommended"], &[], &[]),
            &["recommended+w_2026_46"][..],
        ),
        (
            "numbers are compared as numbers",
            source(&[], &[("w_#_#", 2), ("r#_#_#", 1)], &[]),
            &[
                "w_2026_47+w_2026_47_rsp3",
                "w_2026_46+recommended",
                "r27_0_0",
            ],
        ),
        (
            "an image that is named takes a place of its pattern as well",
            source(&["recommended"], &[("w_#_#", 2)], &[]),
            &["recommended+w_2026_46", "w_2026_47+w_2026_47_rsp3"],
        ),
        (
            "two tags of one image take one place",
            source(&[], &[("w_#_#*", 3)], &["*-arm64"]),
            &[
                "w_2026_47_rsp3+w_2026_47",
                "w_2026_46+recommended",
                "w_2026_45",
            ],
        ),
        (
            "what is skipped is not taken unless it is named",
            source(&["w_2026_48-arm64"], &[("w_#_#*", 1)], &["*-arm64"]),
            &["w_2026_48-arm64", "w_2026_47_rsp3+w_2026_47"],
        ),
        (
            "fewer than wanted are all",
            source(&[], &[("d_#_#_#", 5)], &[]),
            &["d_2026_11_02", "d_2026_11_01"],
        ),
    ] {
        let choice = choose(&source, &listing(LIST), &Answers::new(), 0);
        assert_eq!(chosen(&choice), wanted, "{name}");
        assert_eq!(choice.unresolved, [], "{name}");
        assert_eq!(
            choice.tags.len(),
            LIST.len(),
            "{name}: a reason for every tag"
        );
    }
}

#[test]
fn every_tag_has_its_reason() {
    let mut source = source(
        &["recommended", "gone"],
        &[("w_#_#", 1), ("d_#_#_#", 2)],
        &["d_*_01"],
    );
    source.max_age = Some(Duration::from_hours(48));
    let mut list = listing(LIST);
    for listed in &mut list.tags {
        let old = listed.tag.as_str() == "w_2026_47";
        listed.pushed = Some(if old { DAY } else { 10 * DAY });
    }
    let answers = Answers::from([(tag("gone"), Resolved::Missing)]);
    let choice = choose(&source, &list, &answers, 11 * DAY);
    let why = |name: &str| {
        let mut tags = choice.tags.iter();
        let (_, why) = tags.find(|(of, _)| *of == tag(name)).expect(name);
        why.to_string()
    };
    for (tag, wanted) in [
        ("recommended", "named in `tags`"),
        ("gone", "the registry does not have it"),
        ("w_2026_46", "number 1 of the newest 1 for w_#_#"),
        ("w_2026_47", "pushed 10 days ago, before `max_age`"),
        ("w_2026_45", "older than the newest 1 for w_#_#"),
        ("d_2026_11_01", "skipped by d_*_01"),
        ("d_2026_11_02", "number 1 of the newest 2 for d_#_#_#"),
        ("latest", "no pattern of `newest` matches"),
    ] {
        assert_eq!(why(tag), wanted, "{tag}");
    }
}

/// If the list has no digests, the registry is asked only for the chosen tags. If two of them turn out to be one image,
/// the next tag is asked for.
#[test]
fn only_what_is_chosen_has_to_be_resolved() {
    let source = source(&["recommended"], &[("w_#_#", 2)], &[]);
    let list = listing(&["w_1_1", "w_1_2", "w_1_3", "w_1_4", "recommended", "other"]);
    let mut answers = Answers::new();
    let choice = choose(&source, &list, &answers, 0);
    assert_eq!(
        choice.unresolved,
        [tag("recommended"), tag("w_1_4"), tag("w_1_3")]
    );
    assert_eq!(choice.images, []);
    answers.insert(tag("recommended"), Resolved::Digest(digest("A")));
    answers.insert(tag("w_1_4"), Resolved::Digest(digest("B")));
    answers.insert(tag("w_1_3"), Resolved::Digest(digest("B")));
    let choice = choose(&source, &list, &answers, 0);
    assert_eq!(choice.unresolved, [tag("w_1_2")]);
    answers.insert(tag("w_1_2"), Resolved::Failed("503".to_owned()));
    let choice = choose(&source, &list, &answers, 0);
    assert_eq!(choice.unresolved, []);
    assert_eq!(chosen(&choice), ["recommended", "w_1_4+w_1_3", "w_1_2"]);
    assert_eq!(choice.images[2].digest, None);
    // A tag that the registry has deleted takes no place.
    answers.insert(tag("w_1_2"), Resolved::Missing);
    let choice = choose(&source, &list, &answers, 0);
    assert_eq!(choice.unresolved, [tag("w_1_1")]);
}

proptest! {
    /// Lists that differ only in order lead to the same images. Every image comes once, and no pattern has more than
    /// its count.
    #[test]
    fn the_order_of_a_list_does_not_matter(
        tags in proptest::collection::btree_map("[wr]_[0-9]{1,2}_[0-9]", 0_u8..6, 0..20),
        seed: u64,
        count in 1_usize..4,
    ) {
        let mut list = Listing::default();
        for (name, of) in &tags {
            let digest = Some(Digest::sha256(&[*of]));
            list.tags.push(ListedTag { tag: tag(name), digest, size: None, pushed: None });
        }
        let source = source(&[], &[("w_#_#", count), ("r_#_#", count)], &["*_7"]);
        let choice = choose(&source, &list, &Answers::new(), 0);
        let digests: Vec<_> = choice.images.iter().filter_map(|image| image.digest).collect();
        let once: HashSet<_> = digests.iter().collect();
        prop_assert_eq!(once.len(), digests.len());
        prop_assert!(digests.len() <= 2 * count);
        prop_assert_eq!(choice.tags.len(), tags.len());
        for (tag, why) in &choice.tags {
            let listed = list.tags.iter().find(|listed| listed.tag == *tag).expect("listed");
            let is = listed.digest.is_some_and(|digest| digests.contains(&digest));
            prop_assert_eq!(why.is_chosen(), is, "{}: {}", tag, why);
        }
        let mut shuffled = list.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled.tags);
        let again = choose(&source, &shuffled, &Answers::new(), 0);
        let again: Vec<_> = again.images.iter().map(|image| image.digest).collect();
        prop_assert_eq!(again, choice.images.iter().map(|image| image.digest).collect::<Vec<_>>());
    }
}
