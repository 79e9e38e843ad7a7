use super::*;

fn churn(nodes: usize) -> Churn {
    Churn {
        nodes,
        images: 50,
        layers: 5,
        layer: 40e6,
        pullers: 1.0,
        copies: 2,
        rate: 20e6,
        hours: 2,
        dying: 0.0,
        restarting: 0.0,
        seed: 1,
    }
}

/// Fifty images on eight nodes: each missing copy travels once, and no keeper has much more to fetch than the others.
#[test]
fn every_copy_travels_once_and_the_members_share_the_work() {
    for seed in 1..6 {
        let kept = run(&Churn { seed, ..churn(8) });
        let (bytes, needed) = kept.first;
        assert!(
            needed > 0.0 && bytes <= needed * 1.001,
            "{bytes} of {needed}"
        );
        assert!(kept.busiest <= 1.5, "seed {seed}: {}", kept.busiest);
        assert!(kept.later.0.abs() < 1.0, "nothing lacks");
    }
}

#[test]
fn restarts_alone_copy_nothing() {
    let kept = run(&Churn {
        restarting: 20.0,
        ..churn(20)
    });
    assert!(kept.restarted > 100, "{}", kept.restarted);
    assert!(kept.later.0.abs() < 1.0, "{:?}", kept.later);
}

#[test]
fn what_a_dead_member_held_is_whole_again_soon() {
    let kept = run(&Churn {
        dying: 0.2,
        ..churn(30)
    });
    assert!(kept.repaired > 10, "{kept:?}");
    assert!(kept.whole.p50 < 300.0, "{:?}", kept.whole);
    let (bytes, needed) = kept.later;
    assert!(bytes <= needed * 1.1, "{bytes} of {needed}");
}
