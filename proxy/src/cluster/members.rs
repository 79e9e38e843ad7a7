//! The members, and which of them are worth asking.
//!
//! Owns the list, which of its members is this node, and how each has fared. The list is a name's addresses, looked up
//! again and again, or that of the configuration. An old or incomplete list costs efficiency, never correctness.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::placement::Key;
use crate::{
    config::{self, Config, Peers},
    drain::Watch,
    metrics::MemberState,
    sys,
};

/// A name is looked up this often, give or take a fifth.
const EVERY: Duration = Duration::from_secs(5);

/// A look-up that takes longer has failed.
const LOOKUP: Duration = Duration::from_secs(3);

/// A member that failed is left alone for this long, doubled at each further failure.
const AVOID_FIRST: Duration = Duration::from_secs(1);
const AVOID_MAX: Duration = Duration::from_secs(30);

/// A member that gave wrong bytes is not asked for this long.
const DISTRUST: Duration = Duration::from_mins(10);

/// The members at one moment. `keys[i]` stands for `addresses[i]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct View {
    pub addresses: Vec<SocketAddr>,
    pub keys: Vec<Key>,
    /// Which of them is this node, if that is known.
    pub own: Option<usize>,
}

impl View {
    fn new(mut addresses: Vec<SocketAddr>, own: Option<SocketAddr>) -> Self {
        // A node whose name has not been published yet is a member all the same.
        addresses.extend(own);
        addresses.sort_unstable();
        addresses.dedup();
        let keys = addresses.iter().map(|a| Key::of(&a.to_string())).collect();
        let own = own.and_then(|own| addresses.iter().position(|address| *address == own));
        Self {
            addresses,
            keys,
            own,
        }
    }

    /// Whether there is another member.
    pub fn has_others(&self) -> bool {
        self.addresses.len() > usize::from(self.own.is_some())
    }

    /// Everyone but this node.
    pub fn others(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let others = self.addresses.iter().enumerate();
        others
            .filter(|(index, _)| Some(*index) != self.own)
            .map(|(_, address)| *address)
    }

    /// The address of this node.
    pub fn own_address(&self) -> Option<SocketAddr> {
        self.addresses.get(self.own?).copied()
    }
}

/// How a member has fared.
#[derive(Clone, Copy, Default, Debug)]
struct Standing {
    failures: u32,
    failed: Option<Instant>,
    avoided: Option<Instant>,
    distrusted: Option<Instant>,
}

/// All members.
#[derive(Debug)]
pub struct Members {
    config: Arc<ArcSwap<Config>>,
    view: ArcSwap<View>,
    standings: Mutex<HashMap<SocketAddr, Standing>>,
}

/// What to do about a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    Ask,
    /// Not to be asked.
    Avoid,
    /// Not to be asked. The caller that gets this answer finds out whether the member is well again.
    Probe,
}

/// How one member fares, for people.
#[derive(Clone, Debug)]
pub struct MemberView {
    pub address: SocketAddr,
    pub own: bool,
    pub state: MemberState,
}

impl Members {
    /// No members yet: [`Self::run`] looks for them.
    pub fn new(config: Arc<ArcSwap<Config>>) -> Self {
        Self {
            config,
            view: ArcSwap::default(),
            standings: Mutex::default(),
        }
    }

    /// Whether the configuration names members.
    pub fn are_configured(&self) -> bool {
        self.config.load().cluster.peers.is_some()
    }

    /// The members as they are now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Looks for members until the drain, and does `then` after each look.
    pub(super) async fn run(&self, mut watch: Watch, then: impl Fn()) {
        let mut complained = None;
        loop {
            self.look(&mut complained).await;
            then();
            let pause = EVERY.mul_f64(0.8 + 0.4 * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = watch.stopped() => return,
            }
        }
    }

    /// One look. A name that cannot be looked up leaves the list as it is.
    async fn look(&self, complained: &mut Option<String>) {
        let config = self.config.load_full();
        let Some(peers) = &config.cluster.peers else {
            self.view.store(Arc::default());
            return;
        };
        let found = match &peers.members {
            config::Members::Static(list) => Ok(list.clone()),
            config::Members::Dns { name, port } => lookup(name, *port).await,
        };
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                if complained.as_ref() != Some(&why) {
                    tracing::warn!(members = %peers.members, why, "the members cannot be looked up, those known so far stay; look at [cluster] members and at DNS");
                    *complained = Some(why);
                }
                return;
            }
        };
        *complained = None;
        let own = own_address(peers, &found);
        let view = View::new(found, own);
        if view != **self.view.load() {
            tracing::info!(
                members = view.addresses.len(),
                own = view.own_address().map(tracing::field::display),
                "the members have changed"
            );
            self.standings()
                .retain(|address, _| view.addresses.contains(address));
            self.view.store(Arc::new(view));
        }
    }

    /// Whether a member may be asked now. A member whose time of being avoided is over is to be probed first, by the
    /// caller that gets [`Admission::Probe`]: no reader waits for that.
    pub fn admission(&self, member: SocketAddr) -> Admission {
        let now = Instant::now();
        let mut standings = self.standings();
        let Some(standing) = standings.get_mut(&member) else {
            return Admission::Ask;
        };
        if standing.distrusted.is_some_and(|until| now < until) {
            return Admission::Avoid;
        }
        match standing.avoided {
            Some(until) if now < until => Admission::Avoid,
            Some(_) => {
                standing.avoided = Some(now + AVOID_FIRST);
                Admission::Probe
            }
            None => Admission::Ask,
        }
    }

    /// A member did not answer, or stopped in the middle.
    pub fn failed(&self, member: SocketAddr) {
        let mut standings = self.standings();
        let standing = standings.entry(member).or_default();
        // Several streams that break together are one failure.
        let together = standing
            .failed
            .is_some_and(|at| at.elapsed() < AVOID_FIRST / 2);
        if together {
            return;
        }
        standing.failed = Some(Instant::now());
        standing.failures += 1;
        let pause = AVOID_FIRST * (1 << (standing.failures - 1).min(5));
        standing.avoided =
            Some(Instant::now() + pause.min(AVOID_MAX).mul_f64(0.8 + 0.4 * fastrand::f64()));
    }

    /// A member answered.
    pub fn answered(&self, member: SocketAddr) {
        if let Some(standing) = self.standings().get_mut(&member) {
            standing.failures = 0;
            standing.failed = None;
            standing.avoided = None;
        }
    }

    /// A member gave wrong bytes.
    pub fn distrust(&self, member: SocketAddr) {
        let mut standings = self.standings();
        standings.entry(member).or_default().distrusted = Some(Instant::now() + DISTRUST);
    }

    /// All members and how they fare.
    pub fn list(&self) -> Vec<MemberView> {
        let now = Instant::now();
        let (view, standings) = (self.view(), self.standings());
        let later = |until: Option<Instant>| until.is_some_and(|until| now < until);
        let state = |address| match standings.get(&address) {
            Some(standing) if later(standing.distrusted) => MemberState::Distrusted,
            Some(standing) if standing.avoided.is_some() => MemberState::Avoided,
            _ => MemberState::Ok,
        };
        let each = view.addresses.iter().enumerate();
        each.map(|(index, address)| MemberView {
            address: *address,
            own: Some(index) == view.own,
            state: state(*address),
        })
        .collect()
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<SocketAddr, Standing>> {
        self.standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of a name, each with `port`.
pub async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOKUP.as_secs())),
    }
}

/// The address under which this node is in the list: the one it advertises, the one it listens on, or the only one that
/// is its own.
fn own_address(peers: &Peers, found: &[SocketAddr]) -> Option<SocketAddr> {
    if peers.advertise.is_some() {
        return peers.advertise;
    }
    if !peers.listen.ip().is_unspecified() {
        return Some(peers.listen);
    }
    let mut own = found
        .iter()
        .filter(|address| address.port() == peers.listen.port() && sys::net::is_own(address.ip()));
    match (own.next(), own.next()) {
        (Some(own), None) => Some(*own),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &str, more: &str) -> Members {
        let text = format!(
            "[cluster]\nlisten = \"127.7.0.1:7422\"\ntls = \"off\"\nmembers = {list}\n{more}"
        );
        let config = Config::parse(&text, std::path::Path::new("t")).unwrap();
        Members::new(Arc::new(ArcSwap::from_pointee(config)))
    }

    #[tokio::test]
    async fn a_list_is_sorted_and_knows_its_own() {
        let members = members(
            r#"["127.7.0.3:7422", "127.7.0.1:7422", "127.7.0.3:7422"]"#,
            "",
        );
        members.look(&mut None).await;
        let view = members.view();
        assert_eq!(view.addresses.len(), 2);
        assert_eq!(view.own, Some(0));
        assert!(view.has_others());
        let others: Vec<_> = view.others().map(|a| a.to_string()).collect();
        assert_eq!(others, ["127.7.0.3:7422"]);
    }

    #[tokio::test]
    async fn a_node_that_is_not_listed_is_a_member_all_the_same() {
        let members = members(r#"["127.7.0.3:7422"]"#, "advertise = \"127.7.0.9:1\"");
        members.look(&mut None).await;
        assert_eq!(members.view().own, Some(1));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_one_that_fails_changes_nothing() {
        let members = members(r#""dns:localhost:7422""#, "");
        members.look(&mut None).await;
        let view = members.view();
        assert!(view.others().any(|a| a.ip().is_loopback()), "{view:?}");
        let mut config = Config::clone(&members.config.load());
        let peers = config.cluster.peers.as_mut().unwrap();
        peers.members = config::Members::Dns {
            name: "no-such-name.invalid".into(),
            port: 1,
        };
        members.config.store(Arc::new(config));
        let mut complained = None;
        members.look(&mut complained).await;
        assert!(complained.is_some());
        assert_eq!(members.view(), view);
    }

    #[test]
    fn a_member_that_fails_is_avoided_and_one_that_lies_is_distrusted() {
        let members = members("[\"127.7.0.3:7422\"]", "");
        let other: SocketAddr = "127.7.0.3:7422".parse().unwrap();
        assert_eq!(members.admission(other), Admission::Ask);
        members.failed(other);
        assert_eq!(members.admission(other), Admission::Avoid);
        members.answered(other);
        assert_eq!(members.admission(other), Admission::Ask);
        members.distrust(other);
        members.answered(other);
        assert_eq!(members.admission(other), Admission::Avoid);
    }

    #[test]
    fn one_that_was_avoided_long_enough_is_probed_once() {
        let members = members("[\"127.7.0.3:7422\"]", "");
        let other: SocketAddr = "127.7.0.3:7422".parse().unwrap();
        members.failed(other);
        let over = Instant::now();
        members.standings().get_mut(&other).unwrap().avoided = Some(over);
        assert_eq!(members.admission(other), Admission::Probe);
        assert_eq!(members.admission(other), Admission::Avoid);
    }
}
