//! A thread in a namespace, with a runtime of its own: sockets that it opens belong to the host.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Inside {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Starts the thread; panics when the namespace cannot be entered.
    pub(super) fn enter(namespace: &str) -> Self {
        let path = Path::new("/run/netns").join(namespace);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let live = move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("a namespace that can be entered");
            drop(file);
            // One thread only: another one would be in the namespace of the thread that made it.
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            tell.send(runtime.handle().clone()).expect("a waiting host");
            // A dropped sender ends the thread, too.
            let _ = runtime.block_on(stopped);
        };
        let name = namespace.to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(live);
        Self {
            runtime: told.recv().expect("a thread in the namespace"),
            stop: Some(stop),
            thread: Some(thread.expect("a thread")),
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) async fn run<T, F>(&self, future: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        match self.runtime.spawn(future).await {
            Ok(value) => value,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => panic!("the host is gone: {error}"),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It can fail only by a panic, which has been printed.
            let _ = thread.join();
        }
    }
}
