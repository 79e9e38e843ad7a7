//! containerd's events, reduced to one question: has anything changed?

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    ask::Runtime,
    wire::containerd::{EVENTS, Envelope, Filters},
};

/// The events that change the file. Events of running tasks are frequent, and change nothing in it.
const TOPICS: [&str; 5] = ["images", "containers", "content", "snapshot", "namespaces"];

/// A subscription to the events of all namespaces.
#[derive(Debug)]
pub struct Events {
    changed: mpsc::Receiver<()>,
    task: JoinHandle<()>,
}

/// The result of [`Events::next`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Change,
    /// The runtime has ended the stream of events.
    End,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    /// Subscribes. The runtime opens the stream only with its first event, so this waits for no answer.
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
                // The channel holds one signal; a second one would add nothing.
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

    /// Drops the changes that were signalled so far.
    pub fn clear(&mut self) {
        while self.changed.try_recv().is_ok() {}
    }
}
