//! Fuzzes `hosts.toml` files that larder did not write: see [`crate::fuzz`].

use super::block;
use super::hosts::{Block, hosts_in_order, installed, weave};

const ADDRESS: &str = "http://127.0.0.1:7420";

/// larder's block goes in, comes first, and comes out again. Nothing else changes.
pub(crate) fn hosts_toml(text: &str) {
    let Ok(listed) = hosts_in_order(text) else {
        return;
    };
    if !matches!(block::find(text), Ok(None)) || listed.iter().any(|host| host == ADDRESS) {
        return;
    }
    let lines = Block {
        address: ADDRESS,
        made: 0,
    };
    let Ok(woven) = weave(text, &lines.render()) else {
        return;
    };
    let after = hosts_in_order(&woven).expect("what was checked");
    assert_eq!(after.first().map(String::as_str), Some(ADDRESS), "{woven}");
    assert_eq!(after[1..], listed[..], "{woven}");
    assert_eq!(installed(&woven).as_deref(), Some(ADDRESS));
    let place = block::find(&woven).expect("one pair").expect("a pair");
    let table = |text: &str| text.parse::<toml::Table>().ok();
    assert_eq!(table(&block::strip(&woven, &place)), table(text), "{woven}");
}
