//! Running a helper or plugin: a question on its standard input, an answer on its standard output, within bounds.

use std::{io, path::Path, process::ExitStatus, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::error::{CredentialError, Fault};
use crate::sys::Group;

/// A longer answer is an error. The longest of a cloud's plugins is a few KiB.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// This much of standard error is kept, for the debug log.
const COMPLAINT: u64 = 512;

/// How long the kernel may take to end a killed process before it is left to the runtime.
const REAP_WITHIN: Duration = Duration::from_secs(1);

/// The outcome of a program that ended by itself.
pub(super) struct Ran {
    pub status: ExitStatus,
    /// May hold secrets.
    pub answer: Vec<u8>,
}

impl Ran {
    /// The error that `program` failed. It contains nothing that the program wrote.
    pub(super) fn failure(&self, program: &Path) -> CredentialError {
        let status = self.status;
        error(
            Fault::Program,
            program,
            &format!(
                "failed ({status}): run it by hand, or see in larder's log at level debug what it complained of"
            ),
        )
    }
}

/// Runs `program` with `arguments`, in larder's environment with `environment` on top, for at most `time`.
pub(super) async fn run(
    program: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    question: Vec<u8>,
    time: Duration,
) -> Result<Ran, CredentialError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut group = Group::spawn(&mut command).map_err(|fault| unstartable(program, &fault))?;
    let child = group.child();
    let (input, output, complaints) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        tokio::try_join!(
            async {
                if let Some(mut input) = input {
                    // A helper that answers without reading the question may close the pipe early.
                    let _ = input.write_all(&question).await;
                }
                Ok(())
            },
            answer(output),
            complaint(complaints),
            async { child.wait().await.map_err(Stop::Broken) },
        )
    };
    let stopped = match tokio::time::timeout(time, work).await {
        Ok(Ok(((), answer, complaint, status))) => {
            if !complaint.is_empty() {
                tracing::debug!(program = %program.display(), %status, complaint, "a credential program wrote to its standard error");
            }
            return Ok(Ran { status, answer });
        }
        Ok(Err(stop)) => stop,
        Err(_) => Stop::Late,
    };
    group.kill();
    let _ = tokio::time::timeout(REAP_WITHIN, group.child().wait()).await;
    Err(match stopped {
        Stop::Late => error(
            Fault::Timeout,
            program,
            &format!("did not end within {time:?} and was killed: run it by hand to see why"),
        ),
        Stop::Long => error(
            Fault::Answer,
            program,
            "wrote over 1 MiB and was killed: is it the right program?",
        ),
        Stop::Broken(fault) => error(
            Fault::Program,
            program,
            &format!("cannot be heard: {}", fault.kind()),
        ),
    })
}

/// Why a program was stopped before its end.
enum Stop {
    Late,
    Long,
    Broken(io::Error),
}

async fn answer(output: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, Stop> {
    let mut bytes = Vec::new();
    if let Some(output) = output {
        let mut output = output.take(LONGEST_ANSWER + 1);
        output.read_to_end(&mut bytes).await.map_err(Stop::Broken)?;
    }
    if bytes.len() as u64 > LONGEST_ANSWER {
        return Err(Stop::Long);
    }
    Ok(bytes)
}

/// The beginning of a program's standard error. The rest is read too, so that the program can go on, and dropped.
async fn complaint(complaints: Option<impl AsyncRead + Unpin>) -> Result<String, Stop> {
    let Some(mut complaints) = complaints else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    (&mut complaints)
        .take(COMPLAINT)
        .read_to_end(&mut bytes)
        .await
        .map_err(Stop::Broken)?;
    tokio::io::copy(&mut complaints, &mut tokio::io::sink())
        .await
        .map_err(Stop::Broken)?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim()
        .escape_debug()
        .collect())
}

fn unstartable(program: &Path, fault: &io::Error) -> CredentialError {
    let what = match fault.kind() {
        io::ErrorKind::NotFound => {
            let place = if program.is_absolute() {
                "there"
            } else {
                "into a directory of larder's PATH"
            };
            format!("is not there, or its interpreter is not: put the program {place}")
        }
        io::ErrorKind::PermissionDenied => {
            "may not be run: make it executable by the user that larder runs as".to_owned()
        }
        kind => format!("cannot be started: {kind}"),
    };
    error(Fault::Program, program, &what)
}

fn error(fault: Fault, program: &Path, what: &str) -> CredentialError {
    CredentialError::new(fault, program.display(), what)
}
