//! nginx with a master and two workers, as operators run it, in a directory of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use larder_tests::hosts::Host;
use larder_tests::image::OCI_MANIFEST;
use larder_tests::real::free_port;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

const WORKERS: usize = 2;
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(2);

/// The upstream: `LISTEN0` unlimited, `LISTEN1` 50 MB/s and `LISTEN2` 125 MB/s per connection.
pub const ORIGIN: &str = "
    server { listen LISTEN0; MANIFESTS }
    server { listen LISTEN1; MANIFESTS limit_rate 50000000; }
    server { listen LISTEN2; MANIFESTS limit_rate 125000000; }";

/// An upstream that is only as fast as its link.
pub const ORIGIN_ALONE: &str = "
    server { listen LISTEN0; MANIFESTS }";

/// A static server: `LISTEN0` silent, `LISTEN1` with an access log, which is nginx's default.
pub const STATIC: &str = "
    server { listen LISTEN0; MANIFESTS }
    server { listen LISTEN1; MANIFESTS access_log DIR/access.log combined; }";

/// A cache in front of `upstream` that fetches each thing once.
pub fn cache(upstream: SocketAddr) -> String {
    format!(
        "proxy_cache_path DIR/cache keys_zone=z:1m max_size=10g inactive=1d use_temp_path=off;
         server {{
           listen LISTEN0;
           location / {{
             proxy_cache z;
             proxy_cache_valid 200 1d;
             proxy_cache_lock on;
             proxy_http_version 1.1;
             proxy_set_header Connection '';
             proxy_pass http://{upstream};
           }}
         }}"
    )
}

/// A running nginx. Dropping it ends it and removes its directory.
#[derive(Debug)]
pub struct Nginx {
    addrs: Vec<SocketAddr>,
    child: Child,
    dir: PathBuf,
}

impl Nginx {
    /// Starts it in `dir` on `ports` free ports, with `root` as document root.
    pub fn start(dir: &Path, servers: &str, ports: usize, root: &Path) -> Result<Self> {
        Self::start_at(None, dir, servers, ports, root)
    }

    /// The same in a host, on its address.
    pub fn start_in(host: &Host, dir: &Path, servers: &str, root: &Path) -> Result<Self> {
        Self::start_at(Some(host), dir, servers, 1, root)
    }

    fn start_at(
        host: Option<&Host>,
        dir: &Path,
        servers: &str,
        ports: usize,
        root: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut last = None;
        // Another process may take a port between the check and the bind.
        for _ in 0..5 {
            match Self::launch(host, dir, servers, ports, root) {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// The address of `LISTENn`.
    pub fn addr(&self, n: usize) -> SocketAddr {
        self.addrs[n]
    }

    /// The master and its workers.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = children(self.child.id())?;
        pids.push(self.child.id());
        Ok(pids)
    }

    fn launch(
        host: Option<&Host>,
        dir: &Path,
        servers: &str,
        ports: usize,
        root: &Path,
    ) -> Result<Self> {
        let manifests = format!("location ~ /manifests/ {{ default_type {OCI_MANIFEST}; }}");
        let mut servers = servers
            .replace("DIR", &dir.display().to_string())
            .replace("MANIFESTS", &manifests);
        let mut addrs = Vec::new();
        for n in 0..ports {
            let ip = host.map_or(Ipv4Addr::LOCALHOST.into(), Host::address);
            let addr = SocketAddr::new(ip, free_port()?);
            servers = servers.replace(&format!("LISTEN{n}"), &addr.to_string());
            addrs.push(addr);
        }
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(dir, root, &servers))?;
        let log = File::create(dir.join("nginx.log"))?;
        let mut command = match host {
            Some(host) => host.exec("nginx"),
            None => Command::new("nginx"),
        };
        let child = command
            .args(["-e", "stderr", "-p"])
            .arg(dir)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting nginx; scripts/bench installs it")?;
        let mut nginx = Self {
            addrs,
            child,
            dir: dir.to_owned(),
        };
        nginx.ready()?;
        Ok(nginx)
    }

    /// Waits until every port answers and every worker runs, so that the account covers all of them.
    fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.dir.join("nginx.log")).unwrap_or_default();
                bail!("nginx ended with {status}: {log}");
            }
            // In a host, the first request shows whether the port is open: nginx starts workers after it opens the
            // port.
            let open =
                |addr: &SocketAddr| !addr.ip().is_loopback() || TcpStream::connect(addr).is_ok();
            if self.addrs.iter().all(open) && children(self.child.id())?.len() >= WORKERS {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        bail!("nginx is not ready within {START:?}")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // Not waited for yet, so the id is still its own.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(LOOK);
        }
        // The temporary directory is removed at the end anyway; this makes room for the next round.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn configuration(dir: &Path, root: &Path, servers: &str) -> String {
    let (dir, root) = (dir.display(), root.display());
    // Workers of root's nginx would run as another user, which may not read a temporary directory.
    let user = if geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "{user}
daemon off;
worker_processes {WORKERS};
pid {dir}/nginx.pid;
error_log stderr;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  default_type application/octet-stream;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  root {root};
  {servers}
}}
"
    )
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let of = stat.rsplit_once(')').and_then(|(_, fields)| {
            let mut fields = fields.split_whitespace().skip(1);
            fields.next()?.parse::<u32>().ok()
        });
        if of == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}
