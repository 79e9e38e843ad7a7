//! One program under comparison: where it answers, and the account of its processor time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use larder_tests::node::Node;
use larder_tests::real::DockerRegistry;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::bench::REGISTRY;
use crate::client::{Get, Sink};
use crate::cpu::{Accounting, Meter};
use crate::nginx::Nginx;

/// The program itself; dropping it ends it.
#[derive(Debug)]
enum Program {
    Larder(Box<Node>),
    Nginx(Nginx),
    DockerRegistry(DockerRegistry),
    /// Another part of the benchmark starts and ends it.
    None,
}

/// A running server. The program ends before its account is closed: fields drop in order.
#[derive(Debug)]
pub struct Server {
    pub name: &'static str,
    pub addr: SocketAddr,
    /// What requests for content carry after the path.
    query: String,
    program: Program,
    meter: Option<Meter>,
}

impl Server {
    /// A server whose processor time is not counted. The caller starts and ends it.
    pub fn unmetered(name: &'static str, addr: SocketAddr) -> Self {
        Self {
            name,
            addr,
            query: String::new(),
            program: Program::None,
            meter: None,
        }
    }

    /// larder, asked as containerd asks: with the registry's name in `ns`.
    pub fn larder(accounting: &Accounting, node: Node) -> Result<Self> {
        let meter = accounting.meter("larder", &[node.pid()])?;
        Ok(Self {
            name: "larder",
            addr: node.addr().parse()?,
            query: format!("?ns={REGISTRY}"),
            program: Program::Larder(Box::new(node)),
            meter: Some(meter),
        })
    }

    /// nginx, at the first of its addresses.
    pub fn nginx(accounting: &Accounting, name: &'static str, nginx: Nginx) -> Result<Self> {
        let meter = accounting.meter("nginx", &nginx.pids()?)?;
        Ok(Self {
            name,
            addr: nginx.addr(0),
            query: String::new(),
            program: Program::Nginx(nginx),
            meter: Some(meter),
        })
    }

    /// docker-registry.
    pub fn docker_registry(accounting: &Accounting, registry: DockerRegistry) -> Result<Self> {
        let pid = registry.pid().context("the registry has ended")?;
        let meter = accounting.meter("registry", &[pid])?;
        Ok(Self {
            name: "docker-registry",
            addr: registry.addr(),
            query: String::new(),
            program: Program::DockerRegistry(registry),
            meter: Some(meter),
        })
    }

    /// The other address of an nginx, or this one.
    pub fn second_addr(&self) -> SocketAddr {
        match &self.program {
            Program::Nginx(nginx) => nginx.addr(1),
            _ => self.addr,
        }
    }

    /// The node, if this is larder.
    pub fn node(&self) -> Option<&Node> {
        match &self.program {
            Program::Larder(node) => Some(node),
            _ => None,
        }
    }

    /// The processes whose time is counted.
    pub fn pids(&self) -> Result<Vec<u32>> {
        match &self.program {
            Program::Larder(node) => Ok(vec![node.pid()]),
            Program::Nginx(nginx) => nginx.pids(),
            Program::DockerRegistry(registry) => Ok(registry.pid().into_iter().collect()),
            Program::None => Ok(Vec::new()),
        }
    }

    /// Waits until the node has written to disk all that was pulled through it.
    pub fn settle(&self, runtime: &Runtime) -> Result<()> {
        let Some(node) = self.node() else {
            return Ok(());
        };
        settle(runtime, node)
    }

    /// Seconds of processor time used so far; zero without an account.
    pub fn cpu(&self) -> Result<f64> {
        self.meter.as_ref().map_or(Ok(0.0), Meter::seconds)
    }

    /// A request for this path.
    pub fn get(&self, path: &str, sink: Sink) -> Get {
        Get {
            at: self.addr,
            target: format!("{path}{}", self.query),
            sink,
            range: None,
        }
    }

    /// A URL for other clients.
    pub fn url(&self, addr: SocketAddr, path: &str) -> String {
        format!("http://{addr}{path}{}", self.query)
    }
}

/// Waits until a node has no fill under way.
pub fn settle(runtime: &Runtime, node: &Node) -> Result<()> {
    until_status(runtime, node, "a fill is still under way", |status| {
        status["fills"].as_array().is_some_and(Vec::is_empty)
    })
}

/// Waits until the node's status is as wanted; `otherwise` is the error after 30 s.
pub fn until_status(
    runtime: &Runtime,
    node: &Node,
    otherwise: &'static str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = runtime.block_on(node.admin("/status"));
        if wanted(&status) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{otherwise}: {status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
