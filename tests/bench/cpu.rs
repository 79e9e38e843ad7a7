//! Processor time of servers: exact, from a control group, where one can be made; otherwise from
//! `/proc`, in ticks.
//!
//! A group counts every thread that ever ran in it, to the nanosecond (version 1) or microsecond.
//! `/proc/PID/stat` counts those of one process, to 10 ms.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

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
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = |kind: &str, option: &str| {
            mounts.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (path, found) = (fields.next()?, fields.next()?);
                let mut options = fields.next()?.split(',');
                let fits = found == kind && (option.is_empty() || options.any(|o| o == option));
                fits.then(|| PathBuf::from(path))
            })
        };
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
        // scripts/bench sweeps up groups of this name when a run is interrupted.
        let run = std::env::var("BENCH_GROUP").unwrap_or_else(|_| "larder-bench".to_owned());
        let unique = format!("{run}-{name}-{:08x}", fastrand::u32(..));
        let dir = root.join(unique);
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let meter = match self {
            Self::CpuStat(_) => Meter::CpuStat(dir.clone()),
            _ => Meter::Cpuacct(dir.clone()),
        };
        for pid in pids {
            fs::write(dir.join("cgroup.procs"), pid.to_string())
                .with_context(|| format!("moving process {pid} into {}", dir.display()))?;
        }
        Ok(meter)
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
            // A group whose last process has just been waited for may count as busy for an instant.
            for _ in 0..100 {
                if fs::remove_dir(&*dir).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
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
