//! Test hosts: Linux network namespaces on one bridge, whose links a test can shape, cut, part and count.
//!
//! A [`Net`] makes a namespace for the bridge, one for each host and one for the upstream. It removes all of them when
//! it is dropped, also by a panic. The next test removes what a killed one left behind. Takes root and iproute2.
//! [`Host::run`] runs a future in a host, [`Host::exec`] a program; what runs there is the test's.

mod command;
mod inside;
mod link;
mod names;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use self::command::{ip, try_ip};
use self::inside::Inside;
pub use self::link::{Counts, Shape};
pub use self::names::Names;

/// The start of every namespace's name; the process id follows.
const PREFIX: &str = "larder-t";
/// The bridge in the namespace of its own.
const BRIDGE: &str = "br0";
/// A host's one interface, beside the loopback.
const INTERFACE: &str = "eth0";
/// No interface has this address: packets to it are lost silently.
const NOWHERE: &str = "02:00:00:00:00:99";

/// How many nets this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Hosts on one bridge, with an upstream beside them. Dropping it removes them all.
#[derive(Debug)]
pub struct Net {
    bridge: String,
    hosts: Vec<Host>,
    upstream: Host,
    rules: Vec<(usize, usize)>,
}

impl Net {
    /// `count` hosts and an upstream. Panics without root or `ip`.
    pub fn new(count: usize) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "network namespaces take root: run this binary by scripts/test"
        );
        sweep();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{PREFIX}{}-{number}", std::process::id());
        let bridge = format!("{stem}-net");
        // From here on a panic removes the namespaces made so far.
        let mut remains = Remains(vec![bridge.clone()]);
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", BRIDGE, "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", BRIDGE, "up"]);
        let mut join = |name: &str, address: Ipv4Addr| {
            let namespace = format!("{stem}-{name}");
            remains.0.push(namespace.clone());
            Host::join(&bridge, namespace, name, address)
        };
        let upstream = join("up", Ipv4Addr::new(10, 77, 0, 1));
        let hosts = (0..count).map(|i| join(&format!("h{i}"), host_address(i)));
        let hosts = hosts.collect();
        remains.0.clear();
        Self {
            bridge,
            hosts,
            upstream,
            rules: Vec::new(),
        }
    }

    /// How many hosts there are beside the upstream.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// A host, counted from 0.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// The host that no node runs on.
    pub fn upstream(&self) -> &Host {
        &self.upstream
    }

    /// From now on no packet passes between these hosts and those, and no sender gets an error. All of them still reach
    /// the upstream.
    pub fn part(&mut self, these: &[usize], those: &[usize]) {
        for &this in these {
            for &that in those {
                self.hosts[this].lose(self.hosts[that].address());
                self.hosts[that].lose(self.hosts[this].address());
                self.rules.push((this, that));
            }
        }
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        for (this, that) in std::mem::take(&mut self.rules) {
            self.hosts[this].find(self.hosts[that].address());
            self.hosts[that].find(self.hosts[this].address());
        }
    }

    /// The namespaces of this net that exist now.
    pub fn namespaces(&self) -> Vec<String> {
        let hosts = self.hosts.iter().chain([&self.upstream]);
        let mut all: Vec<_> = hosts.map(|host| host.namespace().to_owned()).collect();
        all.push(self.bridge.clone());
        all
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(Remains(self.namespaces()));
    }
}

/// The address of a host in every net.
pub fn host_address(number: usize) -> Ipv4Addr {
    let number = u8::try_from(number + 10).expect("fewer than 246 hosts");
    Ipv4Addr::new(10, 77, 0, number)
}

/// Namespaces that are removed when this is dropped.
struct Remains(Vec<String>);

impl Drop for Remains {
    fn drop(&mut self) {
        for namespace in &self.0 {
            // A namespace may be gone already. If it cannot be removed, the next sweep tries again.
            let _ = try_ip(&["netns", "del", namespace]);
            let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(namespace));
        }
    }
}

/// Removes the namespaces of killed tests.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let gone = |name: &String| {
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        process.is_some_and(|(id, _)| !Path::new("/proc").join(id).exists())
    };
    drop(Remains(names.filter(gone).collect()));
}

/// One host. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The bridge's namespace, and the link's end there.
    bridge: String,
    port: String,
    namespace: String,
    address: Ipv4Addr,
    inside: Inside,
}

impl Host {
    fn join(bridge: &str, namespace: String, name: &str, address: Ipv4Addr) -> Self {
        let port = format!("to-{name}");
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let pair = ["type", "veth", "peer", "name", INTERFACE, "netns"];
        let new = ["-n", bridge, "link", "add", &port];
        ip(&[&new[..], &pair[..], &[&namespace]].concat());
        ip(&["-n", bridge, "link", "set", &port, "master", BRIDGE, "up"]);
        let with_prefix = format!("{address}/16");
        ip(&[
            "-n",
            &namespace,
            "addr",
            "add",
            &with_prefix,
            "dev",
            INTERFACE,
        ]);
        ip(&["-n", &namespace, "link", "set", INTERFACE, "up"]);
        let inside = Inside::enter(&namespace);
        Self(Arc::new(Inner {
            bridge: bridge.to_owned(),
            port,
            namespace,
            address,
            inside,
        }))
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Its address on the bridge.
    pub fn address(&self) -> IpAddr {
        self.0.address.into()
    }

    /// Runs a future inside, on the host's own thread, and gives its result; panics if it panics.
    pub async fn run<T, F>(&self, future: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.0.inside.run(future).await
    }

    /// The runtime inside, for tasks that stay there.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.0.inside.runtime()
    }

    /// A command that runs this program inside. The process keeps the command's id.
    pub fn exec(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0.namespace]);
        command.arg(program.as_ref());
        command
    }

    /// Programs that are started inside from now on ask this name server.
    pub fn ask_names_at(&self, server: IpAddr) {
        let dir = Path::new("/etc/netns").join(&self.0.namespace);
        std::fs::create_dir_all(&dir).expect("a directory in /etc/netns");
        let text = format!("nameserver {server}\noptions timeout:1 attempts:2\n");
        std::fs::write(dir.join("resolv.conf"), text).expect("a resolv.conf");
    }

    /// Limits the link in both directions, each to this rate.
    pub fn shape(&self, shape: Shape) {
        link::shape(&self.0.namespace, INTERFACE, shape);
        link::shape(&self.0.bridge, &self.0.port, shape);
    }

    /// From now on the link loses every packet, in both directions, and no sender gets an error.
    pub fn cut(&self) {
        let bridge = &self.0.bridge;
        ip(&["-n", bridge, "link", "set", &self.0.port, "nomaster"]);
    }

    /// Ends [`Host::cut`].
    pub fn mend(&self) {
        let bridge = &self.0.bridge;
        ip(&["-n", bridge, "link", "set", &self.0.port, "master", BRIDGE]);
    }

    /// The bytes that the link has carried until now.
    pub fn counts(&self) -> Counts {
        link::counts(&self.0.namespace, INTERFACE)
    }

    fn lose(&self, other: IpAddr) {
        let (namespace, other) = (&self.0.namespace, other.to_string());
        let there = ["lladdr", NOWHERE, "dev", INTERFACE, "nud", "permanent"];
        ip(&[&["-n", namespace, "neigh", "replace", &other], &there[..]].concat());
    }

    fn find(&self, other: IpAddr) {
        let (namespace, other) = (&self.0.namespace, other.to_string());
        ip(&["-n", namespace, "neigh", "del", &other, "dev", INTERFACE]);
    }
}

/// How long a program of this module may take.
const PATIENCE: Duration = Duration::from_mins(1);
