//! Parses the kernel's requests. Pure: accepts any bytes, and never panics.

/// `struct fuse_in_header`.
const HEAD: usize = 40;

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request<'a> {
    /// Identifies the request in its answer. The highest bit, which the answer repeats, says that it was sent again.
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) operation: Operation<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation<'a> {
    /// The first request of a connection; it comes once.
    Init(Offer),
    Lookup {
        name: &'a [u8],
    },
    GetAttr,
    Read {
        offset: u64,
        size: u32,
    },
    StatFs,
    /// A request without an answer.
    Silent,
    /// A request that larder does not implement.
    Other,
    /// The body is too short for the operation.
    Short,
}

/// What the kernel can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) flags: u64,
}

/// `enum fuse_opcode`.
mod code {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const READ: u32 = 15;
    pub(super) const STATFS: u32 = 17;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// This flag says that there are 32 more flags.
const INIT_EXT: u32 = 1 << 30;

impl<'a> Request<'a> {
    /// `None` if the bytes are too short for a header.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        let code = u32_at(head, 4)?;
        Some(Self {
            unique: u64_at(head, 8)?,
            node: u64_at(head, 16)?,
            operation: operation(code, body).unwrap_or(Operation::Short),
        })
    }
}

fn operation(code: u32, body: &[u8]) -> Option<Operation<'_>> {
    Some(match code {
        code::LOOKUP => {
            let end = body.iter().position(|byte| *byte == 0)?;
            Operation::Lookup { name: &body[..end] }
        }
        code::GETATTR => Operation::GetAttr,
        code::READ => Operation::Read {
            offset: u64_at(body, 8)?,
            size: u32_at(body, 16)?,
        },
        code::STATFS => Operation::StatFs,
        code::INIT => Operation::Init(Offer {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            flags: {
                let low = u32_at(body, 12)?;
                let high = if low & INIT_EXT == 0 {
                    0
                } else {
                    u32_at(body, 16)?
                };
                u64::from(high) << 32 | u64::from(low)
            },
        }),
        // Any signal may cause an interrupt, and a read of a file must not fail because of one.
        code::FORGET | code::BATCH_FORGET | code::INTERRUPT => Operation::Silent,
        _ => Operation::Other,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(code: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEAD + body.len()) as u32).to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.resize(HEAD, 7);
        bytes.extend(body);
        bytes
    }

    fn operation_of(bytes: &[u8]) -> Operation<'_> {
        Request::parse(bytes).unwrap().operation
    }

    #[test]
    fn what_the_kernel_sends_is_understood() {
        let mut read = vec![9; 40];
        read[8..16].copy_from_slice(&(1u64 << 40).to_ne_bytes());
        read[16..20].copy_from_slice(&(1u32 << 20).to_ne_bytes());
        let bytes = request(15, 1 << 63 | 5, 77, &read);
        let wanted = Request {
            unique: 1 << 63 | 5,
            node: 77,
            operation: Operation::Read {
                offset: 1 << 40,
                size: 1 << 20,
            },
        };
        assert_eq!(Request::parse(&bytes), Some(wanted));
        assert_eq!(
            operation_of(&request(1, 1, 1, b"name\0")),
            Operation::Lookup { name: b"name" }
        );
        let mut init: Vec<u8> = [7u32, 45, 131_072, 1 << 30 | 1, 1 << 7]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        init.resize(64, 0);
        let offer = Offer {
            major: 7,
            minor: 45,
            flags: 1 << 39 | 1 << 30 | 1,
        };
        assert_eq!(
            operation_of(&request(26, 1, 0, &init)),
            Operation::Init(offer)
        );
        for (code, wanted) in [
            (3, Operation::GetAttr),
            (17, Operation::StatFs),
            (2, Operation::Silent),
            (42, Operation::Silent),
            (36, Operation::Silent),
            (14, Operation::Other),
            (u32::MAX, Operation::Other),
        ] {
            assert_eq!(operation_of(&request(code, 1, 1, &[])), wanted);
        }
    }

    #[test]
    fn what_is_too_short_says_so() {
        let whole = request(15, 1, 2, &[0; 40]);
        for length in 0..whole.len() {
            let parsed = Request::parse(&whole[..length]);
            match length {
                ..HEAD => assert_eq!(parsed, None),
                HEAD..60 => assert_eq!(parsed.unwrap().operation, Operation::Short),
                _ => assert_ne!(parsed.unwrap().operation, Operation::Short),
            }
        }
        let unended = request(1, 1, 1, b"name");
        assert_eq!(operation_of(&unended), Operation::Short);
        // INIT says that more flags follow, but none do.
        let init: Vec<u8> = [7u32, 45, 0, 1 << 30]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(operation_of(&request(26, 1, 0, &init)), Operation::Short);
    }

    proptest! {
        #[test]
        fn anything_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200), code in 0u32..64) {
            let _ = Request::parse(&bytes);
            let request = request(code, 1, 1, &bytes);
            if let Operation::Lookup { name } = operation_of(&request) {
                prop_assert!(!name.contains(&0));
            }
        }
    }
}
