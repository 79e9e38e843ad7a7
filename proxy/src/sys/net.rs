//! The node's own addresses: what counts as "this node" for a connection. And when a connection's reader is woken.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::RawFd,
};

use nix::libc;

/// Whether `peer` is this node: loopback, an address of one of its interfaces, or the default gateway, which is the
/// node as a pod sees it where portmap rewrites the source of a hostPort's connections.
pub fn is_own(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback()
        || interfaces().any(|own| own == peer)
        || default_gateway().is_some_and(|gateway| peer == gateway)
}

/// The kernel's name for this machine, or for the pod; empty if it cannot be read.
pub fn own_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Has the kernel wake the reader of a socket once so many bytes are here (`SO_RCVLOWAT`). Returns whether it will.
#[allow(unsafe_code)]
pub fn wake_reader_at(socket: RawFd, bytes: u32) -> bool {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads `bytes`, which lives until the call returns, and nothing else.
    let set = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    set == 0
}

fn interfaces() -> impl Iterator<Item = IpAddr> {
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(IpAddr::V4(v4.ip()));
            }
            address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
        })
}

/// The IPv4 gateway of the default route, as the kernel lists it: little-endian hex.
fn default_gateway() -> Option<IpAddr> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    gateway_in(&routes).map(IpAddr::V4)
}

fn gateway_in(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let destination = fields.nth(1)?;
        let gateway = u32::from_str_radix(fields.next()?, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_names_the_gateway() {
        let routes = "Iface\tDestination\tGateway\tFlags\neth0\t0000A8C0\t00000000\t0001\neth0\t00000000\t0101A8C0\t0003\n";
        assert_eq!(gateway_in(routes), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway_in("Iface\nlo\t00000000\t00000000\n"), None);
        assert_eq!(gateway_in(""), None);
    }

    #[test]
    fn loopback_is_this_node_in_both_families() {
        for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        assert!(!is_own("192.0.2.7".parse().unwrap()));
    }
}
