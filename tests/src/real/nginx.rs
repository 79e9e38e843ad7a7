//! nginx as a plain server: a reverse proxy, a static server, a cache.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::process::{Daemon, free_port};

const START: Duration = Duration::from_secs(10);

/// One nginx in one process (no master), so that killing its pid kills all of it.
#[derive(Debug)]
pub struct Nginx {
    addr: SocketAddr,
    daemon: Daemon,
    access_log: PathBuf,
}

impl Nginx {
    /// Starts nginx in `dir`. `http` is what goes between the braces of `http { … }` beside the
    /// temporary paths, with `LISTEN` for the address and port and `DIR` for the directory.
    pub async fn start(dir: &Path, http: &str) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut last = None;
        // Another process may take the port between the check and the bind.
        for _ in 0..5 {
            let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
            match Self::launch(dir, http, addr).await {
                Ok(nginx) => return Ok(nginx),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// A pull-through cache of one registry, named `registry`, at the base URL `upstream`. It answers `/v2/<repo>/…`
    /// and `/v2/<registry>/<repo>/…`, fetches each thing once, and serves its content when the upstream is down. It
    /// keeps tags for a day without asking again, and each credential has its own cache.
    pub async fn caching(dir: &Path, registry: &str, upstream: &str) -> Result<Self> {
        let cache = dir.join("cache");
        std::fs::create_dir_all(&cache)?;
        let http = format!(
            "proxy_cache_path DIR/cache keys_zone=z:1m max_size=10g inactive=1d use_temp_path=off;
             server {{
               listen LISTEN;
               proxy_cache z;
               proxy_cache_key $uri$http_authorization;
               proxy_cache_valid 200 1d;
               proxy_cache_lock on;
               proxy_cache_use_stale error timeout http_500;
               proxy_set_header User-Agent nginx;
               proxy_http_version 1.1;
               location = /v2/ {{ return 200 '{{}}'; }}
               location /v2/{registry}/ {{ proxy_pass {upstream}/v2/; }}
               location /v2/ {{ proxy_pass {upstream}; }}
             }}"
        );
        Self::start(dir, &http).await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Its access log so far, in nginx's combined format.
    pub fn access_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.access_log)?)
    }

    async fn launch(dir: &Path, http: &str, addr: SocketAddr) -> Result<Self> {
        let shown = dir.display().to_string();
        let http = http
            .replace("LISTEN", &addr.to_string())
            .replace("DIR", &shown);
        let config = dir.join("nginx.conf");
        let access_log = dir.join("access.log");
        std::fs::write(
            &config,
            format!(
                "daemon off;\nmaster_process off;\npid {shown}/nginx.pid;\nerror_log stderr;\n\
                 events {{ worker_connections 512; }}\nhttp {{\n\
                 access_log {shown}/access.log combined;\n\
                 client_body_temp_path {shown}/body;\nproxy_temp_path {shown}/proxy;\n\
                 fastcgi_temp_path {shown}/fastcgi;\nuwsgi_temp_path {shown}/uwsgi;\n\
                 scgi_temp_path {shown}/scgi;\n{http}\n}}\n"
            ),
        )?;
        let log = dir.join("nginx.log");
        let mut daemon = Daemon::start(
            "nginx",
            Command::new("nginx")
                .arg("-e")
                .arg("stderr")
                .arg("-p")
                .arg(dir)
                .arg("-c")
                .arg(&config),
            &log,
            &log,
        )?;
        daemon
            .ready(START, |_| TcpStream::connect(addr).is_ok())
            .await?;
        Ok(Self {
            addr,
            daemon,
            access_log,
        })
    }
}
