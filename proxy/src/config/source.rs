//! Which addresses may connect to the registry port (promise P19).

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// One entry of `registry.allow_from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceRule {
    /// `"node"`: this node, by any of its own addresses.
    Node,
    /// An address or a network in CIDR notation.
    Net(IpNet),
}

impl SourceRule {
    /// # Errors
    /// How to write it instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "node" {
            return Ok(Self::Node);
        }
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self::Net).map_err(|_| {
            "it is \"node\", an address, or a network such as \"10.0.0.0/8\"".to_owned()
        })
    }

    /// Whether this rule lets `peer` in. `own` tells whether an address is this node's.
    pub fn allows(self, peer: IpAddr, own: impl Fn(IpAddr) -> bool) -> bool {
        let peer = peer.to_canonical();
        match self {
            Self::Node => own(peer),
            Self::Net(net) => net.contains(&peer),
        }
    }
}

impl FromStr for SourceRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl fmt::Display for SourceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_allowed() {
        let own = |ip: IpAddr| ip.is_loopback();
        for (rule, peer, allowed) in [
            ("node", "127.0.0.1", true),
            ("node", "::ffff:127.0.0.1", true),
            ("node", "10.0.0.1", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.8", false),
            ("fd00::/8", "fd00::1", true),
            ("10.0.0.0/8", "fd00::1", false),
        ] {
            let rule = SourceRule::parse(rule).unwrap();
            assert_eq!(
                rule.allows(peer.parse().unwrap(), own),
                allowed,
                "{rule} {peer}"
            );
        }
        for bad in ["", "nodes", "10.0.0", "10.0.0.0/33", "host"] {
            assert!(SourceRule::parse(bad).is_err(), "{bad}");
        }
    }
}
