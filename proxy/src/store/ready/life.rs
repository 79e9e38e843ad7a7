//! The life of a ready file that was offered: a pure decision.
//!
//! containerd records the path of a file for good, and looks at it at each mount. It does not announce a mount, and
//! cannot be asked to wait. So a file goes in two steps. First larder sets it aside, to a name that no runtime looks
//! for: from then on no snapshot can begin to refer to it. Then a report that the runtime began later says whether a
//! snapshot refers to it already. If so, the file comes back. If not, larder removes it, once a report began more than
//! 10 s later: such a report lists also a snapshot for which the runtime had just found the file.
//!
//! ```text
//! Offered -- is to go, a fresh report says that nothing refers to it --> Aside
//! Aside ---- a report that began later: something refers to it --------> Offered
//! Aside ---- a report that began >10 s later: nothing refers to it ----> (removed)
//! Aside ---- no such report comes ------------------------------------> Offered
//! ```

use std::time::Duration;

/// The state of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Under the name that the runtime looks for.
    Offered,
    /// Under another name, since this second (Unix time).
    Aside { since: u64 },
}

/// The runtime's latest report that tells what its snapshots refer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// When the runtime began to answer (Unix time).
    pub at: u64,
    /// It is the latest report, and not old.
    pub fresh: bool,
}

/// What is done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Nothing,
    SetAside,
    /// The clock went back, so the time at which the file was set aside compares with nothing: the wait begins again.
    WaitAnew,
    BringBack,
    Remove,
}

/// The longest time between the moment in which the runtime finds a file and the one in which it lists a snapshot that
/// refers to that file.
const SETTLES: Duration = Duration::from_secs(10);

/// How long a file that is set aside waits for a report: containers that use it cannot start meanwhile.
const PATIENCE: Duration = Duration::from_mins(6);

/// The next step of a file. `goes` says whether it is to go, `referred` whether a snapshot refers to it by the latest
/// report, `now` is Unix time.
pub fn next(phase: Phase, goes: bool, referred: bool, told: Option<Told>, now: u64) -> Step {
    match (phase, told) {
        (Phase::Offered, Some(told)) if goes && told.fresh && !referred => Step::SetAside,
        (Phase::Offered, _) => Step::Nothing,
        (Phase::Aside { since }, _) if now < since => Step::WaitAnew,
        // Times are whole seconds: of two equal ones it is not known which was earlier.
        (Phase::Aside { since }, Some(told))
            if !referred && told.at > since + SETTLES.as_secs() && told.at <= now =>
        {
            Step::Remove
        }
        (Phase::Aside { since }, told) => {
            let referred = referred && told.is_some_and(|told| told.at > since && told.at <= now);
            if referred || now - since >= PATIENCE.as_secs() {
                Step::BringBack
            } else {
                Step::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_row_of_the_table() {
        let told = |at, fresh| Some(Told { at, fresh });
        let aside = Phase::Aside { since: 100 };
        for (phase, goes, referred, told, now, expected) in [
            (
                Phase::Offered,
                true,
                false,
                told(100, true),
                100,
                Step::SetAside,
            ),
            (
                Phase::Offered,
                true,
                true,
                told(100, true),
                100,
                Step::Nothing,
            ),
            (
                Phase::Offered,
                false,
                false,
                told(100, true),
                100,
                Step::Nothing,
            ),
            (
                Phase::Offered,
                true,
                false,
                told(100, false),
                100,
                Step::Nothing,
            ),
            (Phase::Offered, true, false, None, 100, Step::Nothing),
            (aside, true, false, told(99, true), 101, Step::Nothing),
            (aside, true, false, told(100, true), 101, Step::Nothing),
            // A snapshot of what was found at second 100 may not be listed yet.
            (aside, true, false, told(101, true), 111, Step::Nothing),
            (aside, true, false, told(110, true), 111, Step::Nothing),
            (aside, true, false, told(111, true), 111, Step::Remove),
            (aside, false, false, told(111, false), 111, Step::Remove),
            (aside, true, true, told(101, true), 101, Step::BringBack),
            // A report from the future was begun while the clock was wrong.
            (aside, true, false, told(500, true), 120, Step::Nothing),
            (aside, true, true, told(500, true), 120, Step::Nothing),
            (aside, true, false, None, 120, Step::Nothing),
            (aside, true, false, told(99, false), 460, Step::BringBack),
            (aside, true, false, None, 460, Step::BringBack),
            (aside, true, false, told(50, true), 99, Step::WaitAnew),
        ] {
            let step = next(phase, goes, referred, told, now);
            assert_eq!(step, expected, "{phase:?} {goes} {referred} {told:?} {now}");
        }
    }

    /// An event around a file; three of them happen in a second.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The runtime looks the file up. If it is there, a snapshot will refer to it.
        Find,
        /// The snapshot is listed from now on.
        List,
        /// The last snapshot that refers to it goes.
        Unpull,
        /// The runtime begins to answer; what it answers is of this moment or of a later one.
        Ask,
        /// The report is in its place.
        Answer,
        /// larder takes the file's next step.
        Look,
        Nothing,
    }

    proptest! {
        /// In whatever order events come, no file is removed to which a snapshot refers.
        #[test]
        fn what_a_snapshot_refers_to_is_never_removed(
            events in proptest::collection::vec(
                prop_oneof![
                    Just(Event::Find), Just(Event::List), Just(Event::Unpull), Just(Event::Ask), Just(Event::Answer),
                    Just(Event::Look), Just(Event::Look), Just(Event::Nothing),
                ],
                1..200,
            ),
            goes in any::<bool>(),
        ) {
            let (mut phase, mut snapshot) = (Phase::Offered, false);
            let mut found: Option<u64> = None;
            let mut asking: Option<(u64, bool)> = None;
            let mut told: Option<(Told, bool)> = None;
            for (second, event) in events.into_iter().enumerate() {
                // Several events happen within one second.
                let now = 1000 + second as u64 / 3;
                if found.is_some_and(|at| now >= at + SETTLES.as_secs()) {
                    (snapshot, found) = (true, None);
                }
                match event {
                    Event::Find if phase == Phase::Offered => found = found.or(Some(now)),
                    Event::List => snapshot |= found.take().is_some(),
                    Event::Unpull => snapshot = false,
                    Event::Ask => asking = Some((now, snapshot)),
                    Event::Answer => {
                        if let Some((at, referred)) = asking.take() {
                            told = Some((Told { at, fresh: true }, referred));
                        }
                    }
                    Event::Look => {
                        let referred = told.is_some_and(|(_, referred)| referred);
                        let told = told.map(|(told, _)| told);
                        match next(phase, goes, referred, told, now) {
                            Step::Nothing => {}
                            Step::SetAside | Step::WaitAnew => phase = Phase::Aside { since: now },
                            Step::BringBack => phase = Phase::Offered,
                            Step::Remove => {
                                prop_assert!(!snapshot && found.is_none(), "removed while a snapshot refers to it");
                                return Ok(());
                            }
                        }
                    }
                    Event::Find | Event::Nothing => {}
                }
            }
        }
    }
}
