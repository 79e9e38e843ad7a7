//! Which layers may be offered to the runtime: pure decisions. docs/ready-layers.md has the table, SECURITY.md the reasons.
//!
//! A runtime that finds a ready file asks larder for nothing and verifies nothing: any image that names the diffID gets
//! the layer. So a layer is offered only if every client may read it, unless `streaming.private` says otherwise. An
//! image's claims about itself prove nothing.

use larder_shared::Digest;

use crate::{pull::OpenTo, store::Ground};

/// What is known of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Facts {
    /// The image is larder's own.
    pub own: bool,
    /// A sandbox uses the image. No pod starts without it.
    pub sandbox: bool,
    /// An entry of `streaming.never` names it, or a pod of a namespace named there uses it.
    pub never: bool,
    pub open: OpenTo,
    /// `streaming.private`
    pub private: bool,
}

/// Why a layer, or an image, is not offered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    Own,
    Sandbox,
    Never,
    /// Not every client of this node may read it, as far as is known.
    Private,
    /// The image's configuration names another diffID than its layer has.
    Foreign,
    /// The layer has directories without an entry. Mounted over other layers, they would change the directories below.
    Implied,
}

impl Refusal {
    /// The reason, for logs and pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "it is larder's own image",
            Self::Sandbox => "pods' sandboxes run it",
            Self::Never => "[streaming] never names it",
            Self::Private => "not every client of this node may read it, as far as is known",
            Self::Foreign => "its configuration names other layers than its manifest has",
            Self::Implied => "a layer has directories without an entry of their own",
        }
    }
}

/// On what ground the layers of an image may be offered.
pub const fn ground(facts: Facts) -> Result<Ground, Refusal> {
    match facts {
        Facts { own: true, .. } => Err(Refusal::Own),
        Facts { sandbox: true, .. } => Err(Refusal::Sandbox),
        Facts { never: true, .. } => Err(Refusal::Never),
        Facts {
            open: OpenTo::Everyone,
            ..
        } => Ok(Ground::Public),
        Facts {
            open: OpenTo::Node, ..
        } => Ok(Ground::Shared),
        Facts { private: true, .. } => Ok(Ground::Private),
        Facts {
            open: OpenTo::Some | OpenTo::Unknown,
            ..
        } => Err(Refusal::Private),
    }
}

/// Whether a layer may be offered under the diffID that was computed from it. `named` is the diffID that the image's
/// configuration names for the layer.
pub fn layer(named: Option<&Digest>, computed: &Digest, implied: u64) -> Result<(), Refusal> {
    if named != Some(computed) {
        Err(Refusal::Foreign)
    } else if implied > 0 {
        Err(Refusal::Implied)
    } else {
        Ok(())
    }
}

/// Whether a file that was offered on that ground stays, given these facts. Missing knowledge withdraws nothing, as
/// long as the operator shares what the ground stands on.
pub const fn stays(offered: Ground, facts: Facts, shared: bool) -> bool {
    match ground(facts) {
        Ok(_) => true,
        Err(Refusal::Private) => {
            let unknown = matches!(facts.open, OpenTo::Unknown);
            match offered {
                Ground::Public => unknown,
                Ground::Shared => unknown && shared,
                Ground::Private => false,
            }
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Facts = Facts {
        own: false,
        sandbox: false,
        never: false,
        open: OpenTo::Everyone,
        private: false,
    };

    fn open(open: OpenTo) -> Facts {
        Facts { open, ..PUBLIC }
    }

    #[test]
    fn each_row_of_the_table_of_grounds() {
        let private = |facts: Facts| Facts {
            private: true,
            ..facts
        };
        for (facts, expected) in [
            (PUBLIC, Ok(Ground::Public)),
            (open(OpenTo::Node), Ok(Ground::Shared)),
            (open(OpenTo::Some), Err(Refusal::Private)),
            (open(OpenTo::Unknown), Err(Refusal::Private)),
            (private(PUBLIC), Ok(Ground::Public)),
            (private(open(OpenTo::Node)), Ok(Ground::Shared)),
            (private(open(OpenTo::Some)), Ok(Ground::Private)),
            (private(open(OpenTo::Unknown)), Ok(Ground::Private)),
        ] {
            assert_eq!(ground(facts), expected, "{facts:?}");
            // An image that is never offered has no ground at all.
            let own = Facts { own: true, ..facts };
            let sandbox = Facts {
                sandbox: true,
                ..facts
            };
            let never = Facts {
                never: true,
                ..facts
            };
            assert_eq!(ground(own), Err(Refusal::Own));
            assert_eq!(ground(sandbox), Err(Refusal::Sandbox));
            assert_eq!(ground(never), Err(Refusal::Never));
        }
    }

    #[test]
    fn a_layer_is_offered_under_the_diff_id_that_it_has_and_no_other() {
        let (own, other) = (Digest::sha256(b"own"), Digest::sha256(b"other"));
        for (named, implied, expected) in [
            (Some(&own), 0, Ok(())),
            (Some(&other), 0, Err(Refusal::Foreign)),
            (None, 0, Err(Refusal::Foreign)),
            (Some(&own), 1, Err(Refusal::Implied)),
            (Some(&other), 1, Err(Refusal::Foreign)),
        ] {
            assert_eq!(layer(named, &own, implied), expected);
        }
    }

    #[test]
    fn each_row_of_what_is_withdrawn() {
        for (offered, facts, shared, expected) in [
            (Ground::Public, PUBLIC, false, true),
            (Ground::Public, open(OpenTo::Unknown), false, true),
            (Ground::Public, open(OpenTo::Some), false, false),
            (Ground::Public, open(OpenTo::Node), true, true),
            (Ground::Shared, open(OpenTo::Node), true, true),
            (Ground::Shared, open(OpenTo::Unknown), true, true),
            (Ground::Shared, open(OpenTo::Unknown), false, false),
            (Ground::Shared, open(OpenTo::Some), true, false),
            (Ground::Private, open(OpenTo::Unknown), false, false),
            (Ground::Private, open(OpenTo::Some), false, false),
        ] {
            let stays = stays(offered, facts, shared);
            assert_eq!(stays, expected, "{offered:?} {facts:?} {shared}");
        }
        let never = Facts {
            never: true,
            ..PUBLIC
        };
        assert!(!super::stays(Ground::Public, never, true));
        let private = Facts {
            private: true,
            ..open(OpenTo::Some)
        };
        assert!(super::stays(Ground::Public, private, false));
    }
}
