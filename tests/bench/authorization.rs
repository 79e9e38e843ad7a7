//! What the access check adds to a warm hit. A private repository, with one of larder's own tokens and a fresh verdict,
//! is compared with a public one that is asked for without `Authorization`.
//!
//! Both blobs have the same size, and are asked for over one kept connection, one request after another. Rounds are
//! interleaved, and the order of the two turns from round to round.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use larder_tests::fake::{Content, FakeRegistry};
use larder_tests::http::Call;
use larder_tests::node::Node;

use crate::bench::Bench;
use crate::client::{PATIENCE, read_head};
use crate::report::{Bound, Section};
use crate::server::settle;
use crate::stats::{median, quantile, spread};

/// Requests of each kind in each round.
const REQUESTS: usize = 2000;
/// Bytes of the blob: so few that the answer itself costs next to nothing.
const SIZE: u64 = 4 << 10;
/// The name that the registry goes by.
const REGISTRY: &str = "private.test";
const USER: (&str, &str) = ("user", "secret");

/// One repository, its connection, and what was timed, a value for each round.
struct Reader {
    name: &'static str,
    tcp: TcpStream,
    request: String,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

pub fn measure(bench: &Bench) -> Result<Section> {
    let runtime = &bench.runtime;
    let fake = runtime.block_on(FakeRegistry::start());
    let put = |repository: &str, seed| {
        let digest = fake.put_content(repository, &Content::synthetic(seed, SIZE));
        format!("/v2/{repository}/blobs/{digest}?ns={REGISTRY}")
    };
    let (open, closed) = (put("open/app", 1), put("closed/app", 2));
    fake.require_bearer("closed/app", &[USER]);
    let node = Node::builder()
        .upstream_at(REGISTRY, &fake.url())
        .log_level("info");
    let node = runtime.block_on(node.start());
    let token = runtime.block_on(token(&node))?;
    let authorization = format!("Authorization: Bearer {token}\r\n");
    let addr: SocketAddr = node.addr().parse()?;
    let mut readers = [
        Reader::new("public", addr, &open, "")?,
        Reader::new("private", addr, &closed, &authorization)?,
    ];
    for reader in &mut readers {
        // The first request fills. After it larder only serves and checks.
        reader.ask()?;
        settle(runtime, &node)?;
        for _ in 0..REQUESTS / 10 {
            reader.ask()?;
        }
    }
    let nobody = Reader::new("nobody", addr, &closed, "")?.ask();
    ensure!(nobody.is_err(), "the private repository is open to all");
    let before = fake.requests().len();
    for round in 0..bench.plan.rounds {
        for turn in 0..readers.len() {
            let reader = &mut readers[(turn + round) % 2];
            reader.round()?;
        }
    }
    let asked = fake.requests().len() - before;
    ensure!(
        asked == 0,
        "the registry was asked {asked} times: not all were warm hits"
    );
    Ok(section(&readers))
}

fn section(readers: &[Reader; 2]) -> Section {
    let columns = [
        "repository",
        "p50 us",
        "p99 us",
        "added p50 us",
        "added p99",
    ];
    let mut section = Section::new("Authorization of a warm hit", &columns);
    section.about(format!(
        "{REQUESTS} GETs of a {} KiB blob in each round, one after another on one connection; the private repository is \
         shown larder's own token.",
        SIZE >> 10
    ));
    section.about("Added is the median of the differences within each round.");
    let [public, private] = readers;
    let p50 = added(&private.p50_us, &public.p50_us);
    let p99 = added(&private.p99_us, &public.p99_us);
    let nothing = [String::new(), String::new()];
    let added = [p50, p99].map(|us| format!("{us:.1}"));
    for (reader, added) in [(public, nothing), (private, added)] {
        let name = reader.name.to_owned();
        let times = [&reader.p50_us, &reader.p99_us].map(|us| spread(us, 1));
        section.row([vec![name], times.to_vec(), added.to_vec()].concat());
    }
    section.verdict(
        "warm hit: added time of the access check, p50",
        Bound::AtMost(0.1),
        p50 / 1e3,
        "ms",
    );
    section
}

/// The median of the differences of values measured in the same round.
fn added(values: &[f64], beside: &[f64]) -> f64 {
    let differences: Vec<f64> = values.iter().zip(beside).map(|(a, b)| a - b).collect();
    median(&differences)
}

/// A token as a runtime gets it from larder for a pull secret.
async fn token(node: &Node) -> Result<String> {
    let url = format!(
        "{}/token/{REGISTRY}?service=larder&scope=repository:closed/app:pull",
        node.url()
    );
    let pair = BASE64.encode(format!("{}:{}", USER.0, USER.1).as_bytes());
    let call = Call::get(url).header("authorization", &format!("Basic {pair}"));
    let answer = call.send().await?;
    ensure!(answer.status == 200, "no token: {}", answer.text());
    let token = answer.json()["token"].as_str().map(str::to_owned);
    token.context("an answer without a token")
}

impl Reader {
    fn new(name: &'static str, addr: SocketAddr, target: &str, more: &str) -> Result<Self> {
        let tcp = TcpStream::connect_timeout(&addr, PATIENCE)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        Ok(Self {
            name,
            tcp,
            request: format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n{more}\r\n"),
            p50_us: Vec::new(),
            p99_us: Vec::new(),
        })
    }

    /// One request and its whole answer.
    fn ask(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.tcp.write_all(self.request.as_bytes())?;
        let (length, read) = read_head(&mut self.tcp, false)?;
        ensure!(length == SIZE, "{length} bytes of {SIZE} are announced");
        let mut rest = [0; SIZE as usize];
        let rest = &mut rest[..(length - read) as usize];
        self.tcp.read_exact(rest).context("the body ended early")?;
        Ok(start.elapsed())
    }

    fn round(&mut self) -> Result<()> {
        let mut times = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            let took = self
                .ask()
                .with_context(|| format!("the {} one", self.name))?;
            times.push(took.as_secs_f64() * 1e6);
        }
        self.p50_us.push(quantile(&times, 0.5));
        self.p99_us.push(quantile(&times, 0.99));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_taken_within_each_round() {
        // One round on a slow machine, and the same is added in every one.
        assert!((added(&[11.0, 101.0, 12.0], &[10.0, 100.0, 11.0]) - 1.0).abs() < 1e-9);
    }
}
