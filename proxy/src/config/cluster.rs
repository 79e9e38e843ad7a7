//! `[cluster]`: the other nodes, and the object store behind all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::ConfigError;
use super::said::Section;
use super::value;

/// The peer port, unless `members` names another.
pub const PEER_PORT: u16 = 7422;

/// How many living members hold each blob in use, unless `copies` says otherwise; and the most that `copies` may say.
pub const COPIES: usize = 2;
const MOST_COPIES: usize = 8;

/// Bytes a second that a node may fetch for copies, unless `copy_rate` says otherwise.
pub const COPY_RATE: u64 = 20_000_000;

/// The name that every member's certificate must have, unless `tls` names another.
pub const MEMBER_NAME: &str = "larder-peer";

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// The peers, if there are any.
    pub peers: Option<Peers>,
    /// `[cluster.object_store]`
    pub object_store: Option<ObjectStore>,
}

/// The other nodes, and how this one connects to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// The address to which members connect.
    pub listen: SocketAddr,
    /// The address by which the other members know this one. If `None`, larder looks for it among its own addresses.
    pub advertise: Option<SocketAddr>,
    /// The members, or how to find them.
    pub members: Members,
    /// How members authenticate each other.
    pub tls: PeerTls,
    /// A file with a key that all members share. With it, members share verdicts about credentials. Without it,
    /// verdicts stay on the member that made them.
    pub key: Option<PathBuf>,
    /// How many living members hold each blob in use; with 1, no copies are made.
    pub copies: usize,
    /// The most bytes a second that this node fetches for copies.
    pub copy_rate: u64,
    /// Whether copies are made of content that is not known to be public.
    pub copies_private: bool,
}

/// Where the list of members comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// The addresses of a name, such as a headless Service's.
    Dns {
        /// The name.
        name: String,
        /// The port that all of them listen on.
        port: u16,
    },
    /// This list.
    Static(Vec<SocketAddr>),
}

/// The choice in `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerTls {
    /// Members are not authenticated, and their traffic is not encrypted.
    Off,
    /// Both sides show a certificate.
    Mutual(MemberFiles),
}

/// The PEM files of mutual TLS. larder reads them again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemberFiles {
    /// The CA that signs members' certificates.
    pub ca: PathBuf,
    /// This node's certificate, and the chain up to the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The DNS name that every member's certificate must have.
    pub name: String,
}

/// `[cluster.object_store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStore {
    /// `s3://BUCKET/PREFIX`, `gs://…`, `az://…` or `file:///DIR`
    pub url: String,
    /// Further options of the object store's client: an endpoint, a region. Secrets come from the environment.
    pub options: BTreeMap<String, String>,
    /// The most bytes a second that are written to the object store.
    pub max_rate: Option<u64>,
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { name, port } => write!(f, "dns:{name}:{port}"),
            Self::Static(list) => write!(f, "{} addresses", list.len()),
        }
    }
}

const SCHEMES: [&str; 4] = ["s3://", "gs://", "az://", "file:///"];

/// Words in the names of options that would put a secret into the file.
const SECRETS: [&str; 6] = [
    "secret",
    "password",
    "token",
    "account_key",
    "sas_",
    "service_account_key",
];

pub(super) fn cluster(said: &mut Section<'_, '_>) -> Result<Cluster, ConfigError> {
    let listen = said
        .text("listen", value::address_or_off)?
        .unwrap_or_default();
    let advertise = said.text("advertise", value::address)?;
    if let Some(address) = advertise
        && (address.port() == 0 || address.ip().is_unspecified())
    {
        return Err(said.wrong(
            "advertise",
            "the others cannot connect there: write this node's own address and port",
        ));
    }
    let members = members(said)?;
    let tls = tls(said)?;
    let key = said.text("key", value::absolute_path)?;
    let copies = said.quantity("copies", copies)?;
    let copy_rate = said.text("copy_rate", value::rate)?;
    let copies_private = said.flag("copies_private")?;
    let peers = match listen {
        Some(listen) => Some(Peers {
            listen,
            advertise,
            members: said.needed("members", members)?,
            tls: tls.ok_or_else(|| {
                said.misnamed(
                    "`tls` is missing: write tls = { ca = …, cert = …, key = … }, or \"off\" where no other machine can reach the port",
                )
            })?,
            key,
            copies: copies.unwrap_or(COPIES),
            copy_rate: copy_rate.unwrap_or(COPY_RATE),
            copies_private: copies_private.unwrap_or(false),
        }),
        None if members.is_some() => {
            return Err(said.wrong("members", "without `listen` there are no peers: add listen = \"0.0.0.0:7422\""));
        }
        None => None,
    };
    let object_store = match said.table("object_store")? {
        Some(table) => Some(object_store(table)?),
        None => None,
    };
    Ok(Cluster {
        peers,
        object_store,
    })
}

/// Helm charts write numbers with a decimal point.
fn copies(text: &str) -> Result<usize, String> {
    let text = text.strip_suffix(".0").unwrap_or(text);
    let number = text.parse().ok().filter(|n| (1..=MOST_COPIES).contains(n));
    number.ok_or_else(|| format!("write a number from 1, which makes no copies, to {MOST_COPIES}"))
}

fn members(said: &mut Section<'_, '_>) -> Result<Option<Members>, ConfigError> {
    if let Some(name) = said.one_text("members", dns)? {
        return Ok(Some(name));
    }
    let Some(list) = said.texts("members", value::address)? else {
        return Ok(None);
    };
    if list.is_empty() {
        return Err(said.wrong(
            "members",
            "the list is empty: name the members, or leave `listen` out",
        ));
    }
    if list.iter().any(|address| address.port() == 0) {
        return Err(said.wrong("members", "no member can listen on port 0"));
    }
    Ok(Some(Members::Static(list)))
}

fn dns(text: &str) -> Result<Members, String> {
    let written = || "write \"dns:NAME:PORT\", or a list of addresses".to_owned();
    let rest = text.strip_prefix("dns:").ok_or_else(written)?;
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, port)) => (
            name,
            port.parse().ok().filter(|p| *p > 0).ok_or_else(written)?,
        ),
        None => (rest, PEER_PORT),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        return Err(written());
    }
    Ok(Members::Dns {
        name: name.to_owned(),
        port,
    })
}

fn tls(said: &mut Section<'_, '_>) -> Result<Option<PeerTls>, ConfigError> {
    let off = |word: &str| match word {
        "off" => Ok(PeerTls::Off),
        _ => Err("write \"off\", or a table with `ca`, `cert` and `key`".to_owned()),
    };
    if let Some(off) = said.one_text("tls", off)? {
        return Ok(Some(off));
    }
    let Some(mut table) = said.table("tls")? else {
        return Ok(None);
    };
    let ca = table.text("ca", value::absolute_path)?;
    let cert = table.text("cert", value::absolute_path)?;
    let key = table.text("key", value::absolute_path)?;
    let name = table.text("name", |text| Ok(text.to_owned()))?;
    let files = MemberFiles {
        ca: table.needed("ca", ca)?,
        cert: table.needed("cert", cert)?,
        key: table.needed("key", key)?,
        name: name.unwrap_or_else(|| MEMBER_NAME.to_owned()),
    };
    table.finish()?;
    Ok(Some(PeerTls::Mutual(files)))
}

fn object_store(mut said: Section<'_, '_>) -> Result<ObjectStore, ConfigError> {
    let known = |text: &str| {
        if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
            Ok(text.to_owned())
        } else {
            Err("write s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR".to_owned())
        }
    };
    let url = said.text("url", known)?;
    let url = said.needed("url", url)?;
    let mut options = BTreeMap::new();
    if let Some(table) = said.table("options")? {
        for (name, value) in table.words()? {
            if SECRETS.iter().any(|word| name.contains(word)) {
                return Err(said.wrong(
                    "options",
                    format!(
                        "`{name}` is a secret: give it in the environment, as {}",
                        name.to_uppercase()
                    ),
                ));
            }
            options.insert(name, value);
        }
    }
    let max_rate = said.text("max_rate", value::rate)?;
    said.finish()?;
    Ok(ObjectStore {
        url,
        options,
        max_rate,
    })
}
