//! The tables of ARCHITECTURE.md, row by row, and properties that hold for any knowledge.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_mins(10);
const GRACE: Duration = Duration::from_hours(24);

/// Row by row as in ARCHITECTURE.md.
#[test]
fn what_an_answer_means() {
    use Conclusion::{Keep, Nothing, Suspend, Void};
    let (alone, others) = (
        Question::Wanted { others: false },
        Question::Wanted { others: true },
    );
    for (said, wanted_alone, wanted, held) in [
        (Said::Served, Keep, Keep, Keep),
        (Said::Denied, Void, Suspend, Void),
        (Said::Unwelcome, Void, Void, Void),
        (Said::Absent, Nothing, Nothing, Void),
        (Said::Nothing, Nothing, Nothing, Nothing),
        (Said::Nonsense, Nothing, Nothing, Nothing),
        (Said::Other, Nothing, Nothing, Nothing),
    ] {
        assert_eq!(conclude(alone, said), wanted_alone, "{said:?}");
        assert_eq!(conclude(others, said), wanted, "{said:?}");
        assert_eq!(conclude(Question::Held, said), held, "{said:?}");
    }
}

#[test]
fn what_is_an_outage() {
    let registry = || "r".to_owned();
    let why = || "w".to_owned();
    let refused = upstream::Refusal {
        at: registry(),
        what: Refused::Subject,
    };
    for (failure, of_private, of_public) in [
        (
            Failure::Unreachable {
                at: registry(),
                why: why(),
            },
            true,
            true,
        ),
        (
            Failure::Limited {
                at: registry(),
                retry_after: None,
                why: upstream::Limit::Quota,
            },
            true,
            true,
        ),
        (
            Failure::Invalid {
                at: registry(),
                why: why(),
            },
            false,
            true,
        ),
        (Failure::Refused(refused), false, false),
        (Failure::NotFound(registry()), false, false),
        (Failure::Forbidden(why()), false, false),
    ] {
        assert_eq!(is_outage(&failure, false), of_private, "{failure:?}");
        assert_eq!(is_outage(&failure, true), of_public, "{failure:?}");
    }
}

fn nobody() -> Known {
    Known {
        anonymous: true,
        public: None,
        not_public: None,
        granted: None,
        refusal: Refusal::None,
        suspended: false,
        holds: true,
        subject: Refusal::None,
    }
}

#[test]
fn what_is_known_in_a_word() {
    let (young, old, ancient) = (Some(TTL / 2), Some(TTL * 2), Some(TTL + GRACE));
    let ask = |bridged| Verdict::Ask { bridged };
    let (allowed, refused) = (Verdict::Allowed, Verdict::Refused);
    let somebody = Known {
        anonymous: false,
        ..nobody()
    };
    let private = Known {
        not_public: young,
        ..nobody()
    };
    for (known, expected) in [
        (nobody(), ask(false)),
        (
            Known {
                public: young,
                ..nobody()
            },
            allowed,
        ),
        (
            Known {
                public: ancient,
                ..nobody()
            },
            ask(true),
        ),
        (private, refused),
        (
            Known {
                not_public: old,
                ..private
            },
            ask(false),
        ),
        (
            Known {
                suspended: true,
                ..private
            },
            ask(false),
        ),
        (
            Known {
                holds: false,
                ..private
            },
            ask(false),
        ),
        (
            Known {
                refusal: Refusal::Believed,
                holds: false,
                ..private
            },
            refused,
        ),
        (
            Known {
                refusal: Refusal::Doubted,
                ..private
            },
            ask(false),
        ),
        (somebody, ask(false)),
        (
            Known {
                public: young,
                ..somebody
            },
            allowed,
        ),
        (
            Known {
                public: ancient,
                ..somebody
            },
            ask(true),
        ),
        (
            Known {
                granted: young,
                ..somebody
            },
            allowed,
        ),
        (
            Known {
                granted: old,
                ..somebody
            },
            ask(true),
        ),
        (
            Known {
                granted: ancient,
                ..somebody
            },
            ask(false),
        ),
        (
            Known {
                not_public: young,
                ..somebody
            },
            ask(false),
        ),
        (
            Known {
                refusal: Refusal::Believed,
                ..somebody
            },
            refused,
        ),
        (
            Known {
                refusal: Refusal::Doubted,
                ..somebody
            },
            ask(false),
        ),
        (
            Known {
                granted: young,
                subject: Refusal::Believed,
                ..somebody
            },
            refused,
        ),
        (
            Known {
                granted: young,
                subject: Refusal::Doubted,
                ..somebody
            },
            ask(false),
        ),
        (
            Known {
                public: young,
                subject: Refusal::Doubted,
                ..nobody()
            },
            ask(false),
        ),
    ] {
        assert_eq!(verdict(known, TTL, GRACE), expected, "{known:?}");
    }
}

fn ages() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((0_u64..200_000).prop_map(Duration::from_secs))
}

fn refusals() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::None),
        Just(Refusal::Believed),
        Just(Refusal::Doubted)
    ]
}

prop_compose! {
    fn anything()(
        anonymous in any::<bool>(), public in ages(), not_public in ages(), granted in ages(), refusal in refusals(),
        suspended in any::<bool>(), holds in any::<bool>(), subject in refusals(),
    ) -> Known {
        Known { anonymous, public, not_public, granted, refusal, suspended, holds, subject }
    }
}

proptest! {
    /// For any other knowledge: a right needs the origin's own word of less than `ttl` ago. An outage is bridged for
    /// less than `ttl` + `grace`, unless the repository was public. A refused subject is bridged for no caller.
    #[test]
    fn nothing_is_allowed_or_bridged_without_the_origins_word(known in anything()) {
        let young = |age: Option<Duration>, than| age.is_some_and(|age| age < than);
        let granted = if known.anonymous { None } else { known.granted };
        match verdict(known, TTL, GRACE) {
            Verdict::Allowed => {
                prop_assert!(young(known.public, TTL) || young(granted, TTL));
                prop_assert_eq!(known.subject, Refusal::None);
            }
            Verdict::Ask { bridged: true } => {
                prop_assert!(known.public.is_some() || young(granted, TTL + GRACE));
                prop_assert_eq!(known.subject, Refusal::None);
            }
            Verdict::Ask { bridged: false } | Verdict::Refused => {}
        }
    }

    /// A refusal is believed only while it is remembered, so a right that is given later is found.
    #[test]
    fn nobody_is_refused_for_ever(known in anything()) {
        let doubted = |refusal| if refusal == Refusal::Believed { Refusal::Doubted } else { refusal };
        let later = Known {
            refusal: doubted(known.refusal),
            subject: doubted(known.subject),
            not_public: known.not_public.map(|age| age + TTL),
            ..known
        };
        prop_assert_ne!(verdict(later, TTL, GRACE), Verdict::Refused);
    }
}
