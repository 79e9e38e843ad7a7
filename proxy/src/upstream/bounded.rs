//! Caches of what registries say. A client may name any registry, and a registry may say as much as it likes, so these
//! caches are bounded by bytes.

use std::hash::Hash;

use moka::{
    future::{Cache, CacheBuilder},
    policy::EvictionPolicy,
};

/// Approximate bytes of an entry, without its texts.
const ENTRY: usize = 256;

/// A cache of at most `most` bytes. `texts` returns the bytes of an entry's texts.
pub(super) fn cache<K, V>(
    most: u64,
    texts: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
) -> CacheBuilder<K, V, Cache<K, V>>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(most)
        // LRU takes every new entry, however many others a client causes.
        .eviction_policy(EvictionPolicy::lru())
        .weigher(move |key, value| u32::try_from(ENTRY + texts(key, value)).unwrap_or(u32::MAX))
}

/// Bytes of an optional text.
pub(super) fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cache_holds_its_bytes_and_no_more() {
        const MOST: u64 = 1 << 20;
        let cache = cache(MOST, |key: &String, value: &String| key.len() + value.len()).build();
        for n in 0..200 {
            cache.insert(format!("{n}"), "x".repeat(60 << 10)).await;
        }
        cache.run_pending_tasks().await;
        let texts: usize = cache.iter().map(|(_, value)| value.len()).sum();
        assert!(texts as u64 <= MOST, "{texts}");
        // The newest entries stay.
        assert!(cache.get("199").await.is_some());
        assert!(cache.entry_count() >= 10, "{}", cache.entry_count());
        // The number of entries without texts is bounded too.
        for n in 0..20_000 {
            cache.insert(format!("few {n}"), String::new()).await;
        }
        cache.run_pending_tasks().await;
        assert!(cache.weighted_size() <= MOST, "{}", cache.weighted_size());
        assert!(cache.entry_count() < 5_000, "{}", cache.entry_count());
    }
}
