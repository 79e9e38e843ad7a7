//! The daemon's side: it serves the connections that the holder has, and keeps them alive while no holder does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    mounting::Held,
    session,
    talk::{Ended, Talk},
    wire::{Message, Role},
};
use crate::{
    drain::Watch,
    flat::{self, End, Files},
    sys::passed,
};

/// The state between this daemon and the holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Where this daemon's files are mounted, as the holder sees it. `None` if nobody can open a file now.
    pub files: Option<PathBuf>,
    pub link: Link,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The holder is connected with this daemon.
    Held,
    /// A later daemon serves. If it goes, this one serves again.
    GaveWay,
    /// There is no holder, for this reason. The daemon still serves mounted files.
    Absent(String),
}

/// The pause before the daemon looks for the holder again. It doubles up to the longest, which is short because a new
/// holder waits only for some seconds until it gets a connection back.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Serves `files` over all connections of the holder at `socket`, until `stop`. The caller has to spawn the future; the
/// receiver reports the standing.
pub fn attend<F: Files>(
    socket: PathBuf,
    files: Arc<F>,
    mut stop: Watch,
) -> (
    watch::Receiver<Standing>,
    impl Future<Output = ()> + Send + 'static,
) {
    let (standing, seen) = watch::channel(Standing {
        files: None,
        link: Link::Absent("there is no connection yet".to_owned()),
    });
    let mut daemon = Daemon {
        socket,
        files,
        kept: Vec::new(),
        over: Arc::new(Notify::new()),
        standing,
    };
    let work = async move {
        tokio::select! {
            never = daemon.run() => match never {},
            () = stop.stopped() => {}
        }
        // The next daemon serves requests that arrive from now on.
        for kept in &mut daemon.kept {
            kept.stop().await;
        }
    };
    (seen, work)
}

struct Daemon<F> {
    socket: PathBuf,
    files: Arc<F>,
    kept: Vec<Kept>,
    /// Rings when a connection may be over.
    over: Arc<Notify>,
    standing: watch::Sender<Standing>,
}

/// A connection, kept alive by its descriptor.
struct Kept {
    held: Held,
    serving: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Kept {
    async fn stop(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            stop.cancel();
            // The task ends at its next step. If it panicked, that was logged.
            let _ = task.await;
        }
    }
}

impl<F: Files> Daemon<F> {
    async fn run(&mut self) -> std::convert::Infallible {
        let mut pause = RETRY;
        loop {
            let ended = self.session(&mut pause).await;
            let why = ended.to_string();
            let link = Link::Absent(why.clone());
            let new = self.standing.borrow().link != link;
            if new {
                tracing::warn!(socket = %self.socket.display(), "no holder of streamed layers: {why}");
            }
            self.see(link);
            let again = sleep(pause);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    () = self.over.notified() => self.prune(),
                }
            }
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }

    /// One conversation with the holder.
    async fn session(&mut self, pause: &mut Duration) -> Ended {
        match self.try_session(pause).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_session(
        &mut self,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Ended> {
        let talk = Talk::begin(&self.socket, Role::Daemon).await?;
        let uid = talk.peer_uid()?;
        if uid != 0 && uid != passed::own_uid() {
            return Err(Ended::Refused(format!("it belongs to user {uid}")));
        }
        self.prune();
        let kept: Vec<Held> = self.kept.iter().map(|kept| kept.held.clone()).collect();
        session::all(&talk, &kept).await?;
        let mut coming = Vec::new();
        loop {
            let heard = tokio::select! {
                heard = talk.hear() => heard?,
                () = self.over.notified() => {
                    self.prune();
                    continue;
                }
            };
            match heard {
                (Message::Connection(connection), Some(fd)) => coming.push(Held {
                    connection,
                    fd: Arc::new(fd),
                    fresh: false,
                }),
                (Message::Ready, None) => {
                    self.serve(std::mem::take(&mut coming));
                    *pause = RETRY;
                    self.see(Link::Held);
                }
                (Message::GiveWay, None) => {
                    for kept in &mut self.kept {
                        kept.stop().await;
                    }
                    tracing::info!("another larder serves streamed layers from now on");
                    self.see(Link::GaveWay);
                }
                _ => return Err(Ended::Foreign),
            }
        }
    }

    /// Serves the connections of the holder. Connections that the holder lacks are served until they end.
    fn serve(&mut self, coming: Vec<Held>) {
        self.prune();
        for kept in &mut self.kept {
            kept.held.connection.at = None;
        }
        for held in coming {
            let same = |kept: &&mut Kept| kept.held.connection.id == held.connection.id;
            if let Some(kept) = self.kept.iter_mut().find(same) {
                kept.held.connection = held.connection;
            } else {
                let serving = None;
                self.kept.push(Kept { held, serving });
            }
        }
        for kept in &mut self.kept {
            // The holder repeats its list when another daemon has gone, which may have left requests unanswered.
            if kept.serving.is_some() {
                flat::send_again(&kept.held.fd);
            } else {
                let stop = CancellationToken::new();
                let task = serving(
                    kept.held.clone(),
                    Arc::clone(&self.files),
                    stop.clone(),
                    Arc::clone(&self.over),
                );
                kept.serving = Some((stop, tokio::spawn(task)));
            }
        }
    }

    /// Forgets connections that are over.
    fn prune(&mut self) {
        self.kept.retain(|kept| !kept.held.is_over());
        let link = self.standing.borrow().link.clone();
        self.see(link);
    }

    fn see(&self, link: Link) {
        let mut served = self.kept.iter().filter(|kept| kept.serving.is_some());
        let files = served.find_map(|kept| kept.held.connection.at.clone());
        let standing = Standing { files, link };
        self.standing.send_if_modified(|seen| {
            let new = *seen != standing;
            *seen = standing;
            new
        });
    }
}

/// Serves one connection until it is over or until `stop`.
async fn serving<F: Files>(held: Held, files: Arc<F>, stop: CancellationToken, over: Arc<Notify>) {
    loop {
        let (fd, files) = (Arc::clone(&held.fd), Arc::clone(&files));
        match flat::serve(fd, files, stop.cancelled()).await {
            End::Stopped => return,
            End::Over => {
                over.notify_one();
                return;
            }
            End::Failed(error) => {
                tracing::error!(%error, "requests for streamed layers cannot be read");
                tokio::select! {
                    () = sleep(LONGEST_RETRY) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}
