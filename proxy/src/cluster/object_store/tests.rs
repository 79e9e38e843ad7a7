mod directory;
mod fake;
mod opened;
mod reads;
mod writes;

use std::{collections::BTreeMap, io::Write as _};

use futures_util::StreamExt as _;
use object_store::RetryConfig;

use super::{open::Patience, *};
use crate::drain::Drain;
use fake::{Fake, Fault};

/// Limits under which a store that works never fails, and a store that fails does so soon.
fn limits() -> Limits {
    Limits {
        first_byte: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        patience: Patience {
            read: Duration::from_secs(5),
            write: Duration::from_secs(5),
            retry: RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            },
        },
        rest: Duration::from_mins(1),
        attempts: 3,
        pause: Duration::from_millis(1),
        finish: Duration::from_secs(5),
    }
}

fn config(url: &str, options: &[(&str, &str)]) -> config::ObjectStore {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    config::ObjectStore {
        url: url.to_owned(),
        options: options.iter().map(pair).collect::<BTreeMap<_, _>>(),
        max_rate: None,
    }
}

fn opened(config: &config::ObjectStore, limits: Limits) -> Arc<ObjectStore> {
    let client = Arc::new(Client::new());
    let metrics = ObjectStoreMetrics::default();
    Arc::new(ObjectStore::open_within(config, &client, &metrics, limits).unwrap())
}

/// A store in a bucket of `fake`, under the prefix `p`.
fn in_bucket(fake: &Fake, limits: Limits) -> Arc<ObjectStore> {
    let endpoint = format!("http://{}", fake.addr);
    let options = [("endpoint", endpoint.as_str()), ("skip_signature", "true")];
    opened(&config("s3://bucket/p", &options), limits)
}

/// A blob in a file, as the node tier would hand it over.
fn blob(bytes: &[u8]) -> (Digest, Arc<File>, u64) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    (Digest::sha256(bytes), Arc::new(file), bytes.len() as u64)
}

fn key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("p/blobs/sha256/{}/{hex}", &hex[..2])
}

async fn body(object: Object) -> Result<Vec<u8>, ObjectFailure> {
    let mut body = object.body;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

async fn read(store: &ObjectStore, digest: &Digest, range: Range) -> Option<Vec<u8>> {
    let object = store.get(digest, range).await.unwrap()?;
    Some(body(object).await.unwrap())
}

/// Runs the writing tasks until nothing waits any more.
async fn written(store: &Arc<ObjectStore>) -> View {
    let (drain, watch) = Drain::new();
    let running = tokio::spawn(Arc::clone(store).run(watch));
    while store.view().queue > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drain.drain().await;
    running.await.unwrap();
    store.view()
}

fn count(store: &ObjectStore, operation: ObjectOperation, outcome: ObjectOutcome) -> u64 {
    let label = crate::metrics::ObjectAsked { operation, outcome };
    store.metrics.asked.get(&label).map_or(0, |c| c.get())
}

const ALL: Range = Range::new(0, u64::MAX);
