//! A name server: dnsmasq, with addresses that the test gives to names, in a host or on a loopback address.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::{Host, PATIENCE};
use crate::real::free_port;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_millis(500);
/// How often the test asks it.
const GLANCE: Duration = Duration::from_millis(10);

/// A running name server for names below `test`. Dropping it ends it.
#[derive(Debug)]
pub struct Names {
    host: Option<Host>,
    address: SocketAddr,
    child: Child,
    dir: TempDir,
    records: Vec<(String, Vec<Ipv4Addr>)>,
}

impl Names {
    /// Starts it in a host, on port 53 of the host's address.
    pub async fn start_in(host: &Host) -> Self {
        let address = SocketAddr::new(host.address(), 53);
        Self::start(Some(host.clone()), address).await
    }

    /// Starts it on a free port of 127.0.0.1.
    pub async fn start_here() -> Self {
        let port = free_port().expect("a free port");
        Self::start(None, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    async fn start(host: Option<Host>, address: SocketAddr) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("larder-names-")
            .tempdir()
            .expect("a temporary directory");
        let records = dir.path().join("records");
        fs::write(&records, "").expect("a file of records");
        let program = "dnsmasq";
        let mut command = match &host {
            Some(host) => host.exec(program),
            None => Command::new(program),
        };
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-hosts",
            ])
            .args(["--no-resolv", "--bind-interfaces", "--pid-file"])
            .args(["--local-ttl=0", "--local=/test/", "--log-facility=-"])
            .arg(format!("--addn-hosts={}", records.display()))
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()));
        if nix::unistd::geteuid().is_root() {
            // Otherwise dnsmasq becomes a user that cannot read the records.
            command.args(["--user=root", "--group=root"]);
        }
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/test installs it"));
        let mut names = Self {
            host,
            address,
            child,
            dir,
            records: Vec::new(),
        };
        names.set("ready.test", &[Ipv4Addr::LOCALHOST]).await;
        names
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives a name exactly these addresses, and waits until the server answers with them; panics after 20 s.
    pub async fn set(&mut self, name: &str, addresses: &[Ipv4Addr]) {
        self.records.retain(|(known, _)| known != name);
        self.records.push((name.to_owned(), addresses.to_vec()));
        let lines = self.records.iter().flat_map(|(name, addresses)| {
            let line = move |address: &Ipv4Addr| format!("{address} {name}\n");
            addresses.iter().map(line)
        });
        let text: String = lines.collect();
        fs::write(self.file(), text).expect("a file of records");
        let mut wanted = addresses.to_vec();
        wanted.sort();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Ask before each signal: a signal before dnsmasq catches signals would end it.
            let answered = self.ask(name).await;
            if answered.as_ref() == Some(&wanted) {
                return;
            }
            let ended = self.child.try_wait().expect("a child to wait for");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{name} is {answered:?} and not {wanted:?}; dnsmasq {ended:?}:\n{}",
                fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            if answered.is_some() {
                let pid = Pid::from_raw(self.child.id().cast_signed());
                kill(pid, Signal::SIGHUP).expect("a child can be signalled");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The server's addresses for a name, in order; `None` when it does not answer.
    pub async fn ask(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let asking = ask(self.address, name.to_owned());
        match &self.host {
            Some(host) => host.run(asking).await,
            None => asking.await,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("records")
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // Neither fails for a child that has not been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One question for the IPv4 addresses of a name (RFC 1035, sections 4.1 and 4.2.1).
async fn ask(server: SocketAddr, name: String) -> Option<Vec<Ipv4Addr>> {
    let mut question = vec![0x13, 0x37, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).ok()?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(&question).await.ok()?;
    let mut answer = vec![0; 4096];
    let received = tokio::time::timeout(ANSWER, socket.recv(&mut answer)).await;
    answer.truncate(received.ok()?.ok()?);
    let count = usize::from(u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]));
    // The answers follow the question, which is repeated; their name is a pointer of two bytes.
    let mut addresses = Vec::new();
    let mut rest = answer.get(question.len()..)?;
    for _ in 0..count {
        let (head, after) = rest.split_at_checked(12)?;
        let length = usize::from(u16::from_be_bytes([head[10], head[11]]));
        let (data, after) = after.split_at_checked(length)?;
        if let (1, Ok(bytes)) = (head[3], <[u8; 4]>::try_from(data)) {
            addresses.push(Ipv4Addr::from(bytes));
        }
        rest = after;
    }
    addresses.sort();
    Some(addresses)
}
