//! The holder's life: takes over from another holder or mounts, and then waits for peers and for the end.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    absence::Absence,
    mounting::{Found, Held, Place},
    record::Record,
    session::{self, Event, Peer, Word},
    talk::{Ended, Talk},
    wire::{Message, Role},
};
use crate::sys::{fuse::Control, passed::Listener};

/// The options of a holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The files are mounted in a subdirectory of this one.
    pub directory: PathBuf,
    pub socket: PathBuf,
    /// How long requests may wait without a daemon. Zero means for ever.
    pub abort_after: Duration,
    /// A user that may connect as a daemon, besides root and the holder's own user.
    pub daemon_uid: Option<u32>,
    /// The container runtime shares this process's mount namespace, and so sees what this process mounts.
    pub seen_here: bool,
}

/// How often the connections are checked. A poll for a connection's end would wake the holder at each request.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the holder waits for a daemon to give back a connection that some process still has.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a peer that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

impl Hold {
    /// Holds until `stop`, until another holder has taken over, or until everything is uninstalled. A connection
    /// outlives this if another process has it.
    ///
    /// # Errors
    /// For people, with what to do: the first mount failed, or a later one did.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let place = Place::new(&self.directory, self.seen_here)?;
        let control = Control::open().map_err(|error| {
            format!(
                "the control of FUSE cannot be opened: {error}. The holder needs CAP_SYS_ADMIN, which in Kubernetes takes privileged: true"
            )
        })?;
        let (old, held) = self.take_over().await?.unzip();
        let socket = self.socket.display();
        let listener = Listener::bind(&self.socket, self.daemon_uid)
            .map_err(|error| format!("{socket}: {error}"))?;
        if let Some(old) = old {
            // A holder that has gone by now keeps nothing.
            let _ = old.say(&Message::Taken).await;
        }
        let (events, arriving) = mpsc::channel(16);
        let mut record = Record::open(&self.directory);
        let held = held.unwrap_or_default();
        for held in &held {
            record.add(&held.connection);
        }
        let holding = Holding {
            place,
            control,
            record,
            held,
            back_until: None,
            daemons: Vec::new(),
            others: Vec::new(),
            absence: Absence::new(self.abort_after),
            abort_after: self.abort_after,
            uninstalling: false,
        };
        tokio::select! {
            ended = holding.run(arriving) => ended,
            () = self.accept(&listener, &events) => Ok(()),
            () = stop => Ok(()),
        }
    }

    /// Takes the connections of the running holder. A holder without a valid answer is ignored. A holder of another
    /// version, or one that refuses, is an error, because it would go on.
    async fn take_over(&self) -> Result<Option<(Talk, Vec<Held>)>, String> {
        let taking = async {
            let talk = Talk::begin(&self.socket, Role::Holder).await?;
            let held = session::given(&talk).await?;
            Ok((talk, held))
        };
        match taking.await {
            Ok((talk, held)) => {
                let connections = held.len();
                tracing::info!(connections, "taken over from the holder before");
                Ok(Some((talk, held)))
            }
            Err(Ended::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(ended @ (Ended::Version(_) | Ended::Refused(_))) => Err(format!(
                "the holder at {} gives nothing: {ended}; end it first",
                self.socket.display()
            )),
            Err(ended) => {
                tracing::warn!(error = %ended, "the holder before gives nothing");
                Ok(None)
            }
        }
    }

    /// Accepts peers until it is dropped.
    async fn accept(&self, listener: &Listener, events: &mpsc::Sender<Event>) {
        let mut number = 0;
        loop {
            match listener.accept().await {
                Ok(packets) => {
                    number += 1;
                    let talk = Talk::with(packets);
                    let events = events.clone();
                    tokio::spawn(session::session(talk, number, self.daemon_uid, events));
                }
                Err(error) => {
                    tracing::warn!(%error, "a peer cannot be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The holder's state.
struct Holding {
    place: Place,
    control: Control,
    record: Record,
    /// One of them is mounted, unless a process may still give it back or everything is uninstalled. The others have
    /// lost their name and are still used.
    held: Vec<Held>,
    /// Until then the holder waits for the connection of a mount that no process has given back yet.
    back_until: Option<Instant>,
    /// In the order in which they came. The last one serves.
    daemons: Vec<Peer>,
    /// Holders that have asked for all connections.
    others: Vec<Peer>,
    absence: Absence,
    abort_after: Duration,
    uninstalling: bool,
}

impl Holding {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), String> {
        self.begin().await?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = look.tick() => {
                    self.look()?;
                    if self.is_done() {
                        return Ok(());
                    }
                    continue;
                }
            };
            match event {
                None | Some(Event::Taken) => return Ok(()),
                Some(Event::Daemon(peer, given)) => self.daemon(peer, given)?,
                Some(Event::Holder(peer)) => {
                    peer.tell(Word::All(self.held.clone()));
                    // The peer is kept so that it can say that it has taken them.
                    self.others.push(peer);
                }
                Some(Event::Gone(number)) => self.gone(number),
                Some(Event::Uninstall { force, answer }) => {
                    let _ = answer.send(self.uninstall(force)?);
                }
            }
        }
    }

    /// Finds what is mounted, and whether the holder or another process has its connection. Mounts if none has.
    async fn begin(&mut self) -> Result<(), String> {
        match self.place.found()? {
            Found::Foreign(what) => Err(format!(
                "{what} is mounted at {}, and is not larder's: unmount it, or give another --directory",
                self.place.files.display()
            )),
            Found::Ours(id) if self.has(id) => {
                self.name(Some(id));
                Ok(())
            }
            Found::Ours(_) if !self.place.is_dead().await => {
                tracing::info!("a process still has what is mounted; it is waited for");
                self.back_until = Some(Instant::now() + GIVEN_BACK_WITHIN);
                Ok(())
            }
            Found::Ours(_) | Found::Nothing => self.mount(),
        }
    }

    /// What the holder does every second: removes ended connections, ends absences, and mounts anew.
    fn look(&mut self) -> Result<(), String> {
        if self.drop_what_is_over() > 0 {
            tracing::info!(left = self.held.len(), "a connection is over");
        }
        match self.back_until {
            Some(until) if Instant::now() < until => return Ok(()),
            Some(_) => {
                tracing::warn!("nobody has given back what is mounted; it loses its name");
                self.back_until = None;
            }
            None => {}
        }
        self.end_absence();
        let mounted = self.held.iter().any(|held| held.connection.at.is_some());
        if mounted || self.uninstalling {
            return Ok(());
        }
        self.mount()
    }

    /// Ends the connections whose requests have waited too long for a daemon.
    fn end_absence(&mut self) {
        let Self { control, held, .. } = self;
        let waits = |held: &Held| {
            let waiting = control.waiting(held.connection.device);
            waiting.is_ok_and(|waiting| waiting > held.fresh.into())
        };
        let daemon = !self.daemons.is_empty();
        let waiting = !daemon && held.iter().any(waits);
        let now = Instant::now();
        if !self.absence.is_too_long(now, daemon, waiting) {
            return;
        }
        let after = self.abort_after;
        tracing::error!(
            ?after,
            "requests have waited too long for a daemon: they fail now, and so does what the containers that use these files \
             have not read yet. New containers can start when a daemon has come; is larder running?"
        );
        let (waiting, others) = std::mem::take(held).into_iter().partition(waits);
        self.held = others;
        self.abort(waiting);
    }

    /// Drops the connections that are over. How many these were.
    fn drop_what_is_over(&mut self) -> usize {
        let over: Vec<Held> = self.held.extract_if(.., |held| held.is_over()).collect();
        for held in &over {
            self.record.forget(&held.connection);
        }
        over.len()
    }

    fn abort(&mut self, held: Vec<Held>) {
        for Held { connection, .. } in held {
            self.record.forget(&connection);
            if let Err(error) = self.control.abort(connection.device) {
                tracing::error!(%error, "a connection cannot be aborted");
            }
        }
    }

    fn mount(&mut self) -> Result<(), String> {
        let cleared = self.place.clear()?;
        if cleared > 0 {
            tracing::warn!(
                cleared,
                "dead mounts are detached; containers that use them have to be restarted"
            );
        }
        self.name(None);
        let held = self.place.mount()?;
        tracing::info!(at = %self.place.files.display(), "mounted");
        self.record.add(&held.connection);
        self.held.push(held);
        self.announce();
        Ok(())
    }

    fn has(&self, id: u64) -> bool {
        self.held.iter().any(|held| held.connection.id == id)
    }

    /// Records which connection is mounted.
    fn name(&mut self, id: Option<u64>) {
        for Held { connection, .. } in &mut self.held {
            let here = Some(connection.id) == id;
            connection.at = here.then(|| self.place.files.clone());
        }
    }

    /// Tells the serving daemon all connections.
    fn announce(&mut self) {
        if let Some(last) = self.daemons.last().filter(|_| self.back_until.is_none()) {
            for held in &mut self.held {
                held.fresh = false;
            }
            last.tell(Word::All(self.held.clone()));
        }
    }

    fn daemon(&mut self, peer: Peer, given: Vec<Held>) -> Result<(), String> {
        for mut held in given {
            if self.has(held.connection.id) || held.is_over() {
                continue;
            }
            if !self.record.has(&held.connection) {
                tracing::warn!(
                    device = held.connection.device,
                    "a daemon gives a connection that no holder of this directory has made: it is not taken"
                );
                continue;
            }
            tracing::info!("the daemon gives a connection back");
            held.connection.at = None;
            self.held.push(held);
        }
        if let Found::Ours(id) = self.place.found()?
            && self.has(id)
        {
            self.name(Some(id));
            self.back_until = None;
        }
        if let Some(before) = self.daemons.last() {
            before.tell(Word::GiveWay);
        }
        self.daemons.push(peer);
        self.announce();
        Ok(())
    }

    fn gone(&mut self, number: u64) {
        let before = self.daemons.len();
        self.daemons.retain(|peer| peer.number != number);
        self.others.retain(|peer| peer.number != number);
        if self.daemons.len() < before {
            tracing::warn!(left = self.daemons.len(), "a daemon has gone");
            // Any daemon that goes, even one that had given way, may have left requests unanswered. The serving daemon
            // asks for them again.
            self.announce();
        }
    }

    fn uninstall(&mut self, force: bool) -> Result<String, String> {
        self.uninstalling = true;
        self.back_until = None;
        if force {
            let all = std::mem::take(&mut self.held);
            self.abort(all);
        }
        self.place.clear()?;
        self.name(None);
        self.drop_what_is_over();
        self.announce();
        let words = if self.held.is_empty() {
            "nothing is mounted any more; the holder ends"
        } else {
            "the files have lost their name, and containers still use them: daemon and holder have to stay until those containers \
             have ended; then the holder ends by itself"
        };
        tracing::info!("uninstalled: {words}");
        Ok(words.to_owned())
    }

    fn is_done(&self) -> bool {
        self.uninstalling && self.held.is_empty()
    }
}
