//! Loopback addresses for one cluster alone, so that tests run beside each other with the same ports.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A lease holds this port as long as its addresses are taken; no client connects there.
const LOCK_PORT: u16 = 7429;

/// 253 addresses `127.x.y.1` and up.
#[derive(Debug)]
pub(super) struct Lease {
    network: [u8; 2],
    _lock: TcpListener,
}

impl Lease {
    /// Begins at the hash of the test's name, and takes the next free addresses. So a test has the same addresses, and
    /// with them the same placement, every time.
    pub(super) fn take() -> Self {
        let mut hash = DefaultHasher::new();
        std::thread::current().name().hash(&mut hash);
        let first = hash.finish();
        for step in 0..1000 {
            let number = first.wrapping_add(step) % (100 * 250);
            let network = [(number / 250) as u8 + 100, (number % 250) as u8];
            let lock = SocketAddr::from(([127, network[0], network[1], 254], LOCK_PORT));
            if let Ok(lock) = TcpListener::bind(lock) {
                return Self {
                    network,
                    _lock: lock,
                };
            }
        }
        panic!("no loopback addresses are free");
    }

    /// The address of the member of this number, counted from 0.
    pub(super) fn address(&self, number: usize) -> Ipv4Addr {
        let number = u8::try_from(number + 1).expect("fewer than 254 members");
        Ipv4Addr::new(127, self.network[0], self.network[1], number)
    }
}
