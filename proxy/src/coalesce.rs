//! One question at a time: callers that ask the same thing at the same time share one answer.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::events;

/// A question under way, shared by all callers that wait for its answer.
type Running<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Questions under way. A caller that stops waiting does not end the question.
pub struct Coalesce<K, V> {
    running: Arc<Mutex<HashMap<K, Running<V>>>>,
}

impl<K, V> Default for Coalesce<K, V> {
    fn default() -> Self {
        Self {
            running: Arc::default(),
        }
    }
}

impl<K, V> Clone for Coalesce<K, V> {
    fn clone(&self) -> Self {
        Self {
            running: Arc::clone(&self.running),
        }
    }
}

impl<K, V> std::fmt::Debug for Coalesce<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Coalesce")
    }
}

impl<K, V> Coalesce<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The answer to `key`, from the question under way or from `ask`. `None` only if `ask` panicked.
    pub async fn run(&self, key: K, ask: impl Future<Output = V> + Send + 'static) -> Option<V> {
        let answer = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = running.get(&key) {
                answer.clone()
            } else {
                let list = Arc::clone(&self.running);
                let done = key.clone();
                let task = tokio::spawn(events::carried(async move {
                    let _unlist = Unlist { list, key: done };
                    ask.await
                }));
                let answer = async move { task.await.ok() }.boxed().shared();
                running.insert(key, answer.clone());
                answer
            }
        };
        answer.await
    }

    /// The answer to `key`, if the question is under way.
    pub async fn join(&self, key: &K) -> Option<V> {
        let answer = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(key).cloned()
        };
        answer?.await
    }
}

/// Takes the question off the list, however it ends.
struct Unlist<K: Eq + Hash, V> {
    list: Arc<Mutex<HashMap<K, V>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Unlist<K, V> {
    fn drop(&mut self) {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn askers_share_and_leaving_hurts_nobody() {
        let coalesce = Coalesce::<&str, u32>::default();
        let asked = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(tokio::sync::Notify::new());
        let ask = || {
            let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
            async move {
                let n = asked.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
                n
            }
        };
        {
            // The first asker leaves.
            let first = coalesce.run("a", ask());
            tokio::pin!(first);
            assert!(futures_util::poll!(&mut first).is_pending());
        }
        let (second, third) = (coalesce.run("a", ask()), coalesce.run("a", ask()));
        tokio::pin!(second, third);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let fourth = coalesce.join(&"a");
        tokio::pin!(fourth);
        assert!(futures_util::poll!(&mut fourth).is_pending());
        gate.notify_one();
        assert_eq!((second.await, third.await), (Some(0), Some(0)));
        assert_eq!(fourth.await, Some(0));
        assert_eq!(coalesce.join(&"b").await, None);
        // The next question is a new one.
        gate.notify_one();
        assert_eq!(coalesce.run("a", ask()).await, Some(1));
    }
}
