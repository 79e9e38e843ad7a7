//! A host's link: its rate, and the bytes that it has carried.

use serde_json::Value;

use super::command::{ip, tc};

/// The most that a link carries, in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// 1 Mbit/s is a million bits.
    pub mbit_per_second: u32,
}

impl Shape {
    /// So many million bits a second.
    pub fn mbit(mbit_per_second: u32) -> Self {
        Self { mbit_per_second }
    }

    /// The same in bytes a second.
    pub fn bytes_per_second(self) -> f64 {
        f64::from(self.mbit_per_second) * 1e6 / 8.0
    }
}

/// Bytes over a link, as the host counts them, packet headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By the host.
    pub sent: u64,
    /// By the host.
    pub received: u64,
}

impl Counts {
    /// The bytes added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            received: self.received - earlier.received,
        }
    }
}

/// Limits the packets that leave by this interface. The bucket is small, so that a short measurement is right too; the
/// queue takes 40 ms, about what a switch has.
pub(super) fn shape(namespace: &str, interface: &str, shape: Shape) {
    let rate = format!("{}mbit", shape.mbit_per_second);
    let qdisc = ["qdisc", "replace", "dev", interface, "root", "tbf"];
    let limits = ["rate", &rate, "burst", "128kb", "latency", "40ms"];
    tc(namespace, &[qdisc, limits].concat());
}

pub(super) fn counts(namespace: &str, interface: &str) -> Counts {
    let json = ip(&[
        "-n", namespace, "-s", "-j", "link", "show", "dev", interface,
    ]);
    let json: Value = serde_json::from_str(&json).expect("JSON of ip");
    let bytes = |way: &str| {
        let bytes = json[0]["stats64"][way]["bytes"].as_u64();
        bytes.unwrap_or_else(|| panic!("no {way} bytes in {json}"))
    };
    Counts {
        sent: bytes("tx"),
        received: bytes("rx"),
    }
}
