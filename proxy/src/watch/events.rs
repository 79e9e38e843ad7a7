//! containerd's events, as one question: has anything changed?

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    ask::Runtime,
    wire::containerd::{EVENTS, Envelope, Filters},
};

/// What changes the file. Events of running tasks are many, and change nothing in it.
const TOPICS: [&str; 5] = ["images", "containers", "content", "snapshot", "namespaces"];

/// A subscription to the events of all namespaces.
#[derive(Debug)]
pub struct Events {
    changed: mpsc::Receiver<()>,
    task: JoinHandle<()>,
}

/// What [`Events::next`] has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Change,
    /// The runtime sends no more.
    End,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    /// Subscribes. The runtime answers with the first event, however long that takes.
    pub fn of(runtime: &Runtime) -> Self {
        let filters = TOPICS.map(|topic| format!("topic~=\"^/{topic}/\""));
        let question = Filters {
            filters: filters.to_vec(),
        };
        let stream = runtime.open::<_, Envelope>(EVENTS, "", question);
        let (tell, changed) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let Ok(mut stream) = stream.await else { return };
            while let Ok(Some(_)) = stream.message().await {
                // One that is not taken yet says the same.
                let _ = tell.try_send(());
            }
        });
        Self { changed, task }
    }

    /// Waits for a change or the end.
    pub async fn next(&mut self) -> Seen {
        match self.changed.recv().await {
            Some(()) => Seen::Change,
            None => Seen::End,
        }
    }

    /// Forgets the changes so far.
    pub fn clear(&mut self) {
        while self.changed.try_recv().is_ok() {}
    }
}
