//! Processor time of servers: exact, from a control group, where one can be made; otherwise from
//! `/proc`, in ticks.
//!
//! A group counts every thread that ever ran in it, to the nanosecond (version 1) or microsecond.
//! `/proc/PID/stat` counts those of one process, to 10 ms.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result};

/// Where the figures come from.
#[derive(Clone, Debug)]
pub enum Accounting {
    /// The `cpuacct` controller of version 1, below this directory.
    Cpuacct(PathBuf),
    /// `cpu.stat` of version 2, below this directory.
    CpuStat(PathBuf),
    /// `/proc/PID/stat`.
    Ticks,
}

impl Accounting {
    /// The best that this machine and user allow.
    pub fn find() -> Self {
        let candidates = [
            mount("cgroup", "cpuacct").map(Self::Cpuacct),
            mount("cgroup2", "").map(Self::CpuStat),
        ];
        let usable = |one: &Self| one.meter("probe", &[]).and_then(|m| m.seconds()).is_ok();
        let found = candidates.into_iter().flatten().find(usable);
        found.unwrap_or(Self::Ticks)
    }

    /// In words, for the report.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cpuacct(_) => "cgroup v1 cpuacct.usage",
            Self::CpuStat(_) => "cgroup v2 cpu.stat usage_usec",
            Self::Ticks => "/proc/PID/stat, utime + stime in ticks of 10 ms",
        }
    }

    /// Counts these processes, with all their threads, from now on.
    pub fn meter(&self, name: &str, pids: &[u32]) -> Result<Meter> {
        let (Self::Cpuacct(root) | Self::CpuStat(root)) = self else {
            return Ok(Meter::Processes(pids.to_vec()));
        };
        let dir = make(root, name)?;
        let meter = match self {
            Self::CpuStat(_) => Meter::CpuStat(dir.clone()),
            _ => Meter::Cpuacct(dir.clone()),
        };
        for pid in pids {
            put(&dir.join("cgroup.procs"), *pid)?;
        }
        Ok(meter)
    }
}

/// Where this kind of file system is mounted with this option.
fn mount(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, found) = (fields.next()?, fields.next()?);
        let mut options = fields.next()?.split(',');
        let fits = found == kind && (option.is_empty() || options.any(|o| o == option));
        fits.then(|| PathBuf::from(path))
    })
}

/// A new group below `root`. scripts/bench sweeps up groups of this name when a run is interrupted.
fn make(root: &Path, name: &str) -> Result<PathBuf> {
    let run = std::env::var("BENCH_GROUP").unwrap_or_else(|_| "larder-bench".to_owned());
    let dir = root.join(format!("{run}-{name}-{:08x}", fastrand::u32(..)));
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

fn put(file: &Path, value: impl Display) -> Result<()> {
    fs::write(file, value.to_string())
        .with_context(|| format!("writing {value} to {}", file.display()))
}

/// A group whose last process has just been waited for may count as busy for an instant.
fn remove(dir: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A process that gets a share of one core and no more. Drop it after the process's end.
#[derive(Debug)]
pub struct Share(PathBuf);

impl Share {
    /// Why no process can get such a share here; `None` if one can.
    pub fn refusal(share: f64) -> Option<Error> {
        Self::limited(share).err()
    }

    /// Gives a process so much of one core. An error where there are no control groups for that.
    pub fn give(pid: u32, share: f64) -> Result<Self> {
        let given = Self::limited(share)?;
        put(&given.0.join("cgroup.procs"), pid)?;
        Ok(given)
    }

    /// A group without a process.
    fn limited(share: f64) -> Result<Self> {
        const PERIOD: u64 = 100_000;
        let quota = (share * PERIOD as f64) as u64;
        let given = if let Some(root) = mount("cgroup", "cpu") {
            let given = Self(make(&root, "share")?);
            put(&given.0.join("cpu.cfs_period_us"), PERIOD)?;
            put(&given.0.join("cpu.cfs_quota_us"), quota)?;
            given
        } else {
            let root = mount("cgroup2", "").context("a share of a core takes control groups")?;
            let given = Self(make(&root, "share")?);
            put(&given.0.join("cpu.max"), format!("{quota} {PERIOD}"))?;
            given
        };
        Ok(given)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The account of one server. Drop it after the server's end.
#[derive(Debug)]
pub enum Meter {
    Cpuacct(PathBuf),
    CpuStat(PathBuf),
    Processes(Vec<u32>),
}

impl Meter {
    /// Seconds of processor time since the account was opened, or since the processes began.
    pub fn seconds(&self) -> Result<f64> {
        match self {
            Self::Cpuacct(dir) => {
                let nanoseconds = read(&dir.join("cpuacct.usage"))?;
                Ok(nanoseconds.trim().parse::<u64>()? as f64 / 1e9)
            }
            Self::CpuStat(dir) => {
                let text = read(&dir.join("cpu.stat"))?;
                let mut lines = text.lines();
                let usage = lines.find_map(|line| line.strip_prefix("usage_usec "));
                Ok(usage.context("no usage_usec")?.parse::<u64>()? as f64 / 1e6)
            }
            Self::Processes(pids) => pids.iter().map(|pid| ticks(*pid)).sum(),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Self::Cpuacct(dir) | Self::CpuStat(dir) = self {
            remove(dir);
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Seconds of a process and its threads, ended ones too. The kernel's unit for user space is 1/100 s.
fn ticks(pid: u32) -> Result<f64> {
    let stat = read(Path::new(&format!("/proc/{pid}/stat")))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("a short stat")?.parse()?) };
    Ok((next()? + next()?) as f64 / 100.0)
}
