use super::*;

fn member(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], n))
}

fn digest(n: u8) -> Digest {
    Digest::sha256(&[n])
}

fn told(n: u8, used: u64) -> Told {
    Told {
        digest: digest(n),
        size: Some(10),
        used,
    }
}

fn say(holdings: &Holdings, now: u64, who: u16, boot: u64, fresh: bool) -> Vec<(usize, u64)> {
    let who = (member(who), Some(boot));
    holdings.told(now, who, fresh, &[told(1, now)], 0)
}

#[test]
fn the_last_to_say_so_comes_first_and_few_are_kept() {
    let holdings = Holdings::default();
    for n in [1, 2, 3, 4, 5, 6, 7, 2] {
        say(&holdings, 1000, n, 1, true);
    }
    let holders = holdings.holders(&digest(1), 1000);
    assert_eq!(holders, [2, 7, 6, 5, 4, 3].map(member));
    assert_eq!(holdings.holders(&digest(2), 1000), []);
}

#[test]
fn what_is_not_renewed_is_not_believed_for_ever() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, true);
    say(&holdings, 1000 + BELIEVED - 1, 2, 1, true);
    let at = 1000 + BELIEVED;
    assert_eq!(holdings.holders(&digest(1), at - 1).len(), 2);
    assert_eq!(holdings.holders(&digest(1), at), [member(2)]);
    holdings.look_again(at + BELIEVED, at + BELIEVED, |_| true);
    assert_eq!(holdings.count(), 0, "nobody holds it any more");
}

#[test]
fn what_a_member_held_before_it_was_started_anew_is_confirmed_or_forgotten() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, true);
    holdings.told(2000, (member(1), Some(2)), false, &[], 0);
    assert_eq!(holdings.holders(&digest(1), 2000 + CONFIRMED - 1).len(), 1);
    assert_eq!(holdings.holders(&digest(1), 2000 + CONFIRMED), []);
    say(&holdings, 2100, 1, 2, false);
    assert_eq!(holdings.holders(&digest(1), 2000 + CONFIRMED).len(), 1);
}

#[test]
fn a_digest_is_looked_at_when_its_time_has_come_and_once() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, true);
    assert_eq!(holdings.take_due(1000 + FRESH - 1, 9), []);
    assert_eq!(holdings.take_due(1000 + FRESH, 9), [digest(1)]);
    assert_eq!(holdings.take_due(9000, 9), []);
    // A second holder is no reason to look.
    say(&holdings, 1100, 2, 1, true);
    assert_eq!(holdings.take_due(9000, 9), []);
    holdings.dropped(1200, member(2), &[digest(1)], false);
    assert_eq!(holdings.take_due(9000, 9), [], "it expired");
    say(&holdings, 1300, 2, 1, true);
    holdings.dropped(1400, member(2), &[digest(1)], true);
    assert_eq!(holdings.take_due(1400 + FRESH, 9), [digest(1)]);
    holdings.again(&digest(1), 5000);
    holdings.again(&digest(1), 4000);
    assert_eq!(holdings.take_due(4000, 9), [digest(1)]);
    assert_eq!(holdings.take_due(9000, 9), []);
}

#[test]
fn what_is_old_and_new_to_a_keeper_has_time_to_be_told_by_others() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, false);
    assert_eq!(holdings.take_due(1000 + SETTLED - 1, 9), []);
    assert_eq!(holdings.take_due(1000 + SETTLED, 9), [digest(1)]);
    // A keeper that was started a moment ago.
    let who = (member(1), Some(1));
    holdings.told(2000, who, true, &[told(2, 2000)], 2100);
    assert_eq!(holdings.take_due(2099, 9), []);
    assert_eq!(holdings.take_due(2100, 9), [digest(2)]);
}

#[test]
fn a_holder_hears_of_later_uses_elsewhere() {
    let holdings = Holdings::default();
    let say = |who: u16, used: u64| {
        let who = (member(who), Some(1));
        holdings.told(10_000, who, false, &[told(1, used)], 0)
    };
    assert_eq!(say(1, 9000), []);
    assert_eq!(say(2, 5000), [(0, 9000)]);
    assert_eq!(say(3, 9000 - SAME_USE), [], "that is no later use");
    assert_eq!(say(4, 9900), []);
    assert_eq!(say(2, 5000), [(0, 9900)]);
}

#[test]
fn what_another_keeper_knows_counts_where_it_is_newer() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, true);
    let holding = |who: u16, heard: u64| Holding {
        member: member(who),
        boot: None,
        heard,
        used: 0,
    };
    holdings.learn(&digest(1), &[holding(2, 900), holding(1, 500)]);
    let known = holdings.of(&digest(1), 1000);
    let heard: Vec<_> = known.iter().map(|h| (h.member, h.heard)).collect();
    assert_eq!(heard, [(member(2), 900), (member(1), 1000)]);
    holdings.learn(&digest(7), &[holding(2, 900)]);
    assert_eq!(holdings.count(), 1, "only of what is known here");
}

#[test]
fn offers_and_refusals_run_out() {
    let holdings = Holdings::default();
    say(&holdings, 1000, 1, 1, true);
    holdings.answered(&digest(1), member(2), true, 1100, 1100);
    holdings.answered(&digest(1), member(3), false, 1200, 1100);
    let known = holdings.look(&digest(1), 1099).expect("it is known");
    assert_eq!((known.coming.len(), known.declined.len()), (1, 1));
    let known = holdings.look(&digest(1), 1100).expect("it is known");
    assert_eq!((known.coming.len(), known.declined.len()), (0, 1));
    assert_eq!(holdings.take_due(1100, 9), [digest(1)]);
    holdings.answered(&digest(1), member(2), true, 2000, 2000);
    say(&holdings, 1200, 2, 1, true);
    let known = holdings.look(&digest(1), 1201).expect("it is known");
    assert_eq!(known.coming, [], "it has come");
}
