//! The watcher: it asks this node's container runtime which images it has and uses, and writes the answers to a file.
//!
//! Owns the connection to the runtime's socket, the questions, and the file `runtime.json`, whose types are in
//! `shared`. The daemon reads the file and nothing else. The watcher opens no network socket, and no question changes
//! anything in the runtime. `round` and `ask` get the answers; `translate` and `manifest` interpret them, purely.
//!
//! A round that fails writes nothing: the old file stays. No failure ends the watcher.

mod ask;
mod draft;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod manifest;
mod memory;
mod round;
mod translate;
mod trouble;
mod wire;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use larder_shared::runtime::Software;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use self::{
    ask::{Kind, Runtime},
    draft::Draft,
    events::{Events, Seen},
    memory::Memory,
    round::Round,
    trouble::{Told, Trouble},
};
use crate::sys;

/// What to watch, and where to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The runtime's socket.
    pub socket: PathBuf,
    pub file: PathBuf,
    /// The time between two rounds without an event.
    pub every: Duration,
}

/// The kernel's id of this boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The limit for one question is `every`, within these bounds.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// The limit for a round, as a multiple of the limit for one question.
const ROUND: u32 = 6;

/// The pause after an event. More events of the same kind follow: a pull makes hundreds of them.
const PAUSE: Duration = Duration::from_millis(500);

/// If no event comes for this long after a round, the process gives up the pages of its program.
const QUIET: Duration = Duration::from_secs(1);

/// The pause after an event is at least this many times the length of the last round, so rounds take at most a fifth of
/// the time.
const REST: u32 = 4;

/// The pause after a failure, which doubles up to `every`.
const RETRY: Duration = Duration::from_secs(1);

impl Watch {
    /// Asks once, and writes the file.
    ///
    /// # Errors
    /// A text that says what happened and how to fix it.
    pub async fn once(&self) -> Result<Software, String> {
        let asked = async {
            let runtime = Runtime::connect(&self.socket, self.limit()).await?;
            let (kind, software) = runtime.identify().await?;
            let memory = Memory::default();
            self.round(&runtime, &kind, &software, &memory).await?;
            Ok(software)
        };
        asked
            .await
            .map_err(|trouble: Trouble| trouble.words(&self.socket, &self.file))
    }

    /// Watches until the future is dropped.
    pub async fn run(&self) {
        draft::sweep(&self.file);
        let mut told = Told::default();
        let mut memory = Memory::default();
        let mut pause = RETRY;
        loop {
            let mut answered = false;
            let trouble = self.session(&mut memory, &mut told, &mut answered).await;
            if told.is_new(&trouble) {
                let words = trouble.words(&self.socket, &self.file);
                tracing::warn!("{words}; the file stays as it is until the runtime answers");
            }
            if answered {
                pause = RETRY;
            }
            sleep(pause.min(self.every)).await;
            pause = (pause * 2).min(self.every.max(RETRY));
        }
    }

    /// Watches over one connection, for as long as the runtime answers.
    async fn session(&self, memory: &mut Memory, told: &mut Told, answered: &mut bool) -> Trouble {
        match self.try_session(memory, told, answered).await {
            Ok(never) => match never {},
            Err(trouble) => trouble,
        }
    }

    async fn try_session(
        &self,
        memory: &mut Memory,
        told: &mut Told,
        answered: &mut bool,
    ) -> Result<std::convert::Infallible, Trouble> {
        let runtime = Runtime::connect(&self.socket, self.limit()).await?;
        let (kind, software) = runtime.identify().await?;
        let mut events = None;
        loop {
            if matches!(kind, Kind::Containerd { .. }) && events.is_none() {
                events = Some(Events::of(&runtime));
            }
            let began = Instant::now();
            *memory = self.round(&runtime, &kind, &software, memory).await?;
            sys::give_freed_memory_back();
            self.tell(&software, told.is_over(), *answered);
            *answered = true;
            let pause = PAUSE.max(began.elapsed() * REST).min(self.every);
            self.wait(&runtime, &mut events, pause).await?;
        }
    }

    fn tell(&self, software: &Software, over: bool, told_before: bool) {
        let Software { name, version } = software;
        if over {
            tracing::info!("the runtime answers again: {name} {version}");
        } else if !told_before {
            let (socket, file) = (self.socket.display(), self.file.display());
            tracing::info!(
                "{name} {version} at {socket} is watched; {file} says what it holds and uses"
            );
        }
    }

    /// Waits for the next round: until `every` has passed, or for an event and then a short pause.
    async fn wait(
        &self,
        runtime: &Runtime,
        events: &mut Option<Events>,
        pause: Duration,
    ) -> Result<(), Trouble> {
        let next = Instant::now() + self.every;
        let quiet = QUIET.min(self.every / 2);
        let seen = if let Some(events) = events {
            if let Ok(seen) = timeout(quiet, events.next()).await {
                Some(seen)
            } else {
                sys::let_go_of_program();
                timeout_at(next, events.next()).await.ok()
            }
        } else {
            sleep(quiet).await;
            sys::let_go_of_program();
            sleep_until(next).await;
            None
        };
        match seen {
            None => {}
            Some(Seen::Change) => {
                sleep(pause).await;
                if let Some(events) = events {
                    events.clear();
                }
            }
            Some(Seen::End) => {
                *events = None;
                sleep(PAUSE.min(self.every)).await;
                if runtime.is_closed() {
                    return Err(Trouble::Closed(wire::containerd::EVENTS));
                }
                sleep_until(next).await;
            }
        }
        Ok(())
    }

    async fn round(
        &self,
        runtime: &Runtime,
        kind: &Kind,
        software: &Software,
        memory: &Memory,
    ) -> Result<Memory, Trouble> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = at.map_or(0, |time| time.as_secs());
        let boot = std::fs::read_to_string(BOOT).ok();
        let boot = boot.as_deref().map(str::trim);
        let draft = Draft::begin(&self.file, at, boot, software);
        let draft = draft.map_err(|error| Trouble::of_writing(&error))?;
        let round = Round::new(runtime, memory, draft);
        let asked = async {
            match kind {
                Kind::Containerd { cri } => round.containerd(*cri).await,
                Kind::Cri => round.cri().await,
            }
        };
        let within = self.limit() * ROUND;
        timeout(within, asked).await.map_err(|_| Trouble::Slow)?
    }

    fn limit(&self) -> Duration {
        self.every.clamp(SHORTEST, LONGEST)
    }
}
