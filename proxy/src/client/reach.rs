//! Which addresses may be connected to (promise P20).
//!
//! A request names its registry, so any client of larder chooses where larder connects. Addresses of this node and of
//! the cloud's metadata service are therefore refused, after DNS, unless the configuration names the place. A place to
//! which a public upstream leads must be public too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far a connection may reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// The configuration names this very place: any address is allowed.
    Named,
    /// A client named the registry: not this node, and no link-local address.
    Direct,
    /// An upstream led there by a redirect or a realm: public addresses only.
    Public,
}

/// Whose endpoint a place is, seen from the upstream that led there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// An endpoint of the registry that led there.
    Its,
    /// An endpoint of another registry in the configuration.
    Another,
    /// The configuration does not name the place.
    Nobody,
}

impl Reach {
    /// The reach of a place to which an upstream led by a redirect or a realm. `from_loopback`: the upstream itself is
    /// on this node's loopback.
    ///
    /// A registry that any client may name must not reach a place that the operator allowed for another one. A
    /// configured registry may lead to places inside its network. It may lead to loopback only if it is there itself.
    #[must_use]
    pub fn led(self, whose: Whose, from_loopback: bool) -> Self {
        match (whose, self) {
            (Whose::Its, _) => Self::Named,
            (Whose::Another, Self::Named) if from_loopback => Self::Named,
            (Whose::Another | Whose::Nobody, Self::Named) => Self::Direct,
            (Whose::Another | Whose::Nobody, Self::Direct | Self::Public) => Self::Public,
        }
    }
}

/// An address that may not be connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{address} is {kind}; larder connects there only if an upstream's endpoint in the configuration names it"
)]
pub struct Forbidden {
    address: IpAddr,
    kind: &'static str,
}

impl Reach {
    /// Refuses an address that is out of reach.
    pub fn check(self, address: IpAddr) -> Result<(), Forbidden> {
        let kind = match (self, class(address)) {
            (Self::Named, _) | (_, Class::Public) | (Self::Direct, Class::Private) => return Ok(()),
            (_, Class::Own(kind)) => kind,
            (Self::Public, Class::Private) => "a private address",
        };
        Err(Forbidden { address, kind })
    }
}

enum Class {
    Public,
    Private,
    Own(&'static str),
}

fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => class_v4(v4),
            None => class_v6(v6),
        },
    }
}

fn class_v4(v4: Ipv4Addr) -> Class {
    let [a, b, ..] = v4.octets();
    if v4.is_loopback() {
        Class::Own("this node's loopback")
    } else if v4.is_link_local() {
        Class::Own("link-local, where clouds keep their metadata service")
    } else if a == 0 || v4.is_broadcast() || v4.is_multicast() || a >= 240 {
        Class::Own("no address of a host")
    } else if v4 == Ipv4Addr::new(100, 100, 100, 200) || v4 == Ipv4Addr::new(168, 63, 129, 16) {
        // Alibaba Cloud's and Azure's metadata services live outside 169.254/16.
        Class::Own("a cloud's metadata service")
    } else if v4.is_private()
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (b == 18 || b == 19))
    {
        Class::Private
    } else {
        Class::Public
    }
}

fn class_v6(v6: Ipv6Addr) -> Class {
    if v6.is_loopback() {
        Class::Own("this node's loopback")
    } else if v6.is_unspecified() || v6.is_multicast() {
        Class::Own("no address of a host")
    } else if v6.is_unicast_link_local() {
        Class::Own("link-local")
    } else if matches!(v6.segments(), [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254 | 0x23]) {
        Class::Own("a cloud's metadata service")
    } else if v6.is_unique_local() || (v6.segments()[0] & 0xffc0) == 0xfec0 {
        Class::Private
    } else {
        Class::Public
    }
}

/// The IPv4 address inside an IPv6 address: mapped, compatible, NAT64, 6to4.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    if let Some(v4) = v6.to_ipv4_mapped() {
        return Some(v4);
    }
    let o = v6.octets();
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Some(Ipv4Addr::new(o[12], o[13], o[14], o[15])),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(Ipv4Addr::new(o[12], o[13], o[14], o[15])),
        [0x2002, ..] => Some(Ipv4Addr::new(o[2], o[3], o[4], o[5])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_gets_by_leading_there() {
        use Reach::{Direct, Named, Public};
        for (whose, from, from_loopback, reach) in [
            (Whose::Its, Named, false, Named),
            (Whose::Its, Direct, false, Named),
            (Whose::Another, Named, true, Named),
            (Whose::Another, Named, false, Direct),
            (Whose::Another, Direct, true, Public),
            (Whose::Another, Direct, false, Public),
            (Whose::Another, Public, true, Public),
            (Whose::Nobody, Named, true, Direct),
            (Whose::Nobody, Named, false, Direct),
            (Whose::Nobody, Direct, false, Public),
            (Whose::Nobody, Public, false, Public),
        ] {
            assert_eq!(
                from.led(whose, from_loopback),
                reach,
                "{whose:?} {from:?} {from_loopback}"
            );
        }
    }

    #[test]
    fn table() {
        // address, Direct, Public
        for (address, direct, public) in [
            ("1.1.1.1", true, true),
            ("2606:4700::1", true, true),
            ("10.0.0.1", true, false),
            ("172.16.0.1", true, false),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("fc00::1", true, false),
            ("127.0.0.1", false, false),
            ("127.8.8.8", false, false),
            ("0.0.0.0", false, false),
            ("169.254.169.254", false, false),
            ("100.100.100.200", false, false),
            ("168.63.129.16", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("::1", false, false),
            ("::", false, false),
            ("fe80::1", false, false),
            ("fd00:ec2::254", false, false),
            ("fd00:ec2::23", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("::127.0.0.1", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("2002:7f00:1::", false, false),
            ("::ffff:10.0.0.1", true, false),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert!(Reach::Named.check(ip).is_ok(), "{address}");
            assert_eq!(Reach::Direct.check(ip).is_ok(), direct, "{address}");
            assert_eq!(Reach::Public.check(ip).is_ok(), public, "{address}");
        }
    }
}
