//! SeaweedFS with its S3 gateway on loopback ports: an object store as clusters run one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::process::{Daemon, free_port, run, succeeded};

const START: Duration = Duration::from_mins(1);
const REQUEST: Duration = Duration::from_mins(2);

/// The one identity it knows, and its secret.
const KEY: &str = "larder-key";
const SECRET: &str = "larder-secret";
const REGION: &str = "us-east-1";

/// One SeaweedFS with one bucket. It keeps its ports and its content over [`stop`](Self::stop) and
/// [`start_again`](Self::start_again).
#[derive(Debug)]
pub struct SeaweedFs {
    dir: PathBuf,
    ports: Ports,
    daemon: Option<Daemon>,
}

#[derive(Debug)]
struct Ports {
    s3: u16,
    others: [u16; 7],
}

impl SeaweedFs {
    /// The bucket that is there from the start.
    pub const BUCKET: &str = "larder";

    /// Starts it with everything below `dir`, and waits until the bucket takes objects.
    pub async fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("data"))?;
        let identities = serde_json::json!({ "identities": [{
            "name": "larder",
            "credentials": [{ "accessKey": KEY, "secretKey": SECRET }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(dir.join("s3.json"), identities.to_string())?;
        let mut last = None;
        // Another process may take a port between the check and the bind.
        for _ in 0..3 {
            let mut store = Self {
                dir: dir.to_owned(),
                ports: Ports::free()?,
                daemon: None,
            };
            match store.launch().await {
                Ok(()) => return Ok(store),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// Where its S3 gateway listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.s3))
    }

    /// The base URL of the S3 gateway, plain HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The variables that hold the credentials, as every S3 client reads them.
    pub fn environment(&self) -> [(&'static str, &'static str); 3] {
        [
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", REGION),
        ]
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Ends it by `kill -9`, since its own shutdown is slow; its ports then refuse connections.
    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
        self.ports.forget_sockets();
    }

    /// Starts it again on the same ports with the same content.
    pub async fn start_again(&mut self) -> Result<()> {
        self.stop();
        self.launch().await
    }

    /// An object of the bucket, if it is there.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let file = self.dir.join(format!("got-{:016x}", fastrand::u64(..)));
        let shown = file.display().to_string();
        let status = self.curl(&self.url(key), &["-o", &shown]).await?;
        let bytes = std::fs::read(&file).unwrap_or_default();
        let _ = std::fs::remove_file(&file);
        match status {
            200 => Ok(Some(bytes)),
            404 => Ok(None),
            status => anyhow::bail!("GET {key}: {status} {}", String::from_utf8_lossy(&bytes)),
        }
    }

    /// Writes an object, over an earlier one if any. Returns the status.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<u16> {
        self.put_with(key, bytes, &[]).await
    }

    /// Writes an object unless there is one. Returns the status, 412 if there was.
    pub async fn create(&self, key: &str, bytes: &[u8]) -> Result<u16> {
        self.put_with(key, bytes, &["-H", "If-None-Match: *"]).await
    }

    /// The keys of all objects that begin with `prefix`, in order.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        // curl signs the query as it is written.
        let prefix = prefix.replace('/', "%2F");
        let query = format!("?list-type=2&prefix={prefix}");
        let file = self.dir.join(format!("list-{:016x}", fastrand::u64(..)));
        let shown = file.display().to_string();
        let status = self.curl(&self.url(&query), &["-o", &shown]).await?;
        let text = std::fs::read_to_string(&file)?;
        std::fs::remove_file(&file)?;
        ensure!(status == 200, "listing {prefix}: {status} {text}");
        Ok(keys(&text))
    }

    fn url(&self, key: &str) -> String {
        format!("{}/{}/{key}", self.endpoint(), Self::BUCKET)
    }

    async fn put_with(&self, key: &str, bytes: &[u8], more: &[&str]) -> Result<u16> {
        let file = self.dir.join(format!("put-{:016x}", fastrand::u64(..)));
        std::fs::write(&file, bytes)?;
        let shown = file.display().to_string();
        let options = [&["-o", "/dev/null", "-T", &shown], more].concat();
        let status = self.curl(&self.url(key), &options).await;
        std::fs::remove_file(&file)?;
        status
    }

    /// Sends a request as the one identity; gives the status, 0 without an answer.
    async fn curl(&self, url: &str, options: &[&str]) -> Result<u16> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-s", "-g", "-w", "%{http_code}"]);
        curl.arg("--aws-sigv4").arg(format!("aws:amz:{REGION}:s3"));
        curl.arg("-u").arg(format!("{KEY}:{SECRET}"));
        curl.args(options).arg(url);
        let output = run(&mut curl, REQUEST).await?;
        let status = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if status.is_empty() {
            succeeded(&output)?;
        }
        Ok(status.parse()?)
    }

    async fn launch(&mut self) -> Result<()> {
        let log = self.dir.join("weed.log");
        let mut weed = Command::new(program());
        weed.arg("-logtostderr=true").arg("server");
        weed.current_dir(&self.dir).env("TMPDIR", &self.dir);
        weed.args(self.ports.arguments());
        weed.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data"]);
        weed.args(["-master.volumeSizeLimitMB=256", "-volume.max=20"]);
        // It is the only master: no other could be elected.
        weed.args(["-master.electionTimeout=1s", "-master.resumeState=false"]);
        weed.args(["-filer", "-filer.localSocket=filer.sock"]);
        weed.args(["-s3", "-s3.config=s3.json", "-s3.localSocket=s3.sock"]);
        // It would report to its makers that it runs.
        weed.arg("-master.telemetry=false");
        let mut daemon = Daemon::start("weed", &mut weed, &log, &log)?;
        let deadline = Instant::now() + START;
        // It is up once it has taken an object: that needs the master, a volume, the filer and the gateway.
        loop {
            daemon.ready(START, |_| listens(self.addr())).await?;
            self.curl(&self.url(""), &["-o", "/dev/null", "-X", "PUT", "-m", "10"])
                .await?;
            if self.put_with(".up", b"up", &["-m", "10"]).await? == 200 {
                break;
            }
            ensure!(Instant::now() < deadline, "weed: {}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.daemon = Some(daemon);
        Ok(())
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Ports {
    /// Removes the sockets that it makes at places of its own choice.
    fn forget_sockets(&self) {
        for part in ["master", "volume", "filer", "s3"] {
            for port in &self.others {
                let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"));
            }
        }
    }

    fn free() -> Result<Self> {
        let mut found = Vec::new();
        while found.len() < 8 {
            let port = free_port()?;
            if !found.contains(&port) {
                found.push(port);
            }
        }
        let mut found = found.into_iter();
        let s3 = found.next().context("a port")?;
        let others = found.collect::<Vec<_>>().try_into();
        let others = others.map_err(|_| anyhow::anyhow!("eight ports"))?;
        Ok(Self { s3, others })
    }

    /// Every port is set: its default ports lie where the kernel takes those of clients.
    fn arguments(&self) -> Vec<String> {
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        let named = |(name, port): (&str, &u16)| format!("-{name}={port}");
        let mut all: Vec<String> = names.into_iter().zip(&self.others).map(named).collect();
        all.push(format!("-s3.port={}", self.s3));
        all.extend(["-s3.port.iceberg=0", "-s3.port.lance=0"].map(str::to_owned));
        all
    }
}

/// The program where scripts/test has put it, beside the build, or wherever PATH finds it.
fn program() -> PathBuf {
    let beside = |dir: &Path| dir.join("seaweedfs/bin/weed");
    std::env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().map(beside).find(|weed| weed.exists()))
        .unwrap_or_else(|| PathBuf::from("weed"))
}

fn listens(addr: SocketAddr) -> bool {
    std::net::TcpStream::connect(addr).is_ok()
}

/// The keys in the answer to a listing.
fn keys(text: &str) -> Vec<String> {
    text.split("<Key>")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let text = "<R><Contents><Key>a/b</Key><Size>1</Size></Contents><Contents><Key>c</Key></R>";
        assert_eq!(keys(text), ["a/b", "c"]);
        assert!(keys("<R></R>").is_empty());
    }
}
