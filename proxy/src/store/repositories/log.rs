//! Lines on their way to the logs, written by a few threads however many logs there are.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::lock;
use crate::store::Journal;

/// Threads that write at once. A disk that hangs ties up no more than these.
const THREADS: usize = 4;

/// One repository's file, and what it has not taken yet.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) lines: Journal,
    /// Held while the file is read or written.
    pub(super) writing: Mutex<()>,
    queued: AtomicBool,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            lines: Journal::default(),
            writing: Mutex::default(),
            queued: AtomicBool::new(false),
        }
    }

    /// Appends what is waiting (blocking).
    pub(super) fn write(&self) {
        let _one = lock(&self.writing);
        let path = &self.path;
        if let Err(error) = self.lines.write(|lines| append(path, lines)) {
            tracing::debug!(path = %path.display(), %error, "a repository's log was not written, and will be again");
        }
    }
}

/// Logs that have something to write, in the order in which they got it.
#[derive(Clone, Default, Debug)]
pub(super) struct Writers(Arc<Mutex<Queue>>);

#[derive(Default, Debug)]
struct Queue {
    logs: VecDeque<Arc<Log>>,
    threads: usize,
}

impl Writers {
    /// Queues a log, so that a thread soon writes the lines that wait for it.
    pub(super) fn write(&self, log: &Arc<Log>) {
        if log.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut queue = lock(&self.0);
        queue.logs.push_back(Arc::clone(log));
        if queue.threads < THREADS {
            queue.threads += 1;
            let writers = self.clone();
            tokio::task::spawn_blocking(move || writers.work());
        }
    }

    /// Writes until nothing is left (blocking).
    fn work(&self) {
        loop {
            let log = {
                let mut queue = lock(&self.0);
                let Some(log) = queue.logs.pop_front() else {
                    queue.threads -= 1;
                    return;
                };
                log
            };
            // Before the lines are taken, so that a later line queues the log again.
            log.queued.store(false, Ordering::Release);
            log.write();
        }
    }
}

pub(super) fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    let open = || File::options().append(true).create(true).open(path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            open()?
        }
        done => done?,
    };
    file.write_all(text)
}
