//! A blocking HTTP/1.1 client that costs as little as it can: one connection and one thread for each
//! download, no parsing beyond the head.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};

/// How long a server may be silent.
pub const PATIENCE: Duration = Duration::from_secs(30);

static END: OnceLock<Instant> = OnceLock::new();

/// Every download fails after this instant, so that the run ends whatever the servers do.
pub fn end_all_by(end: Instant) {
    END.get_or_init(|| end);
}

/// What the client does with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Copied out of the kernel, 64 KiB at a time, as any real client does.
    Copy,
    /// Dropped inside the kernel (`MSG_TRUNC`): shows what the server could do.
    Discard,
}

impl Sink {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copying",
            Self::Discard => "discarding",
        }
    }
}

/// One download to be made.
#[derive(Clone, Debug)]
pub struct Get {
    pub at: SocketAddr,
    /// With its query.
    pub target: String,
    pub sink: Sink,
    /// First and last byte; nothing is the whole.
    pub range: Option<(u64, u64)>,
}

/// One download that was made.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    /// Of the body.
    pub bytes: u64,
    /// From before the connection was made until the body's first byte arrived.
    pub first_byte: Duration,
    /// Until the last byte.
    pub took: Duration,
}

impl Get {
    /// Connects, asks, and takes the body to its end; anything but a whole answer is an error.
    pub fn run(&self) -> Result<Got> {
        self.go()
            .with_context(|| format!("GET http://{}{}", self.at, self.target))
    }

    fn go(&self) -> Result<Got> {
        let start = Instant::now();
        let mut tcp = self.ask()?;
        let (expected, mut bytes) = read_head(&mut tcp, self.range.is_some())?;
        let mut first_byte = (bytes > 0).then(|| start.elapsed());
        let mut buffer = vec![
            0;
            match self.sink {
                Sink::Copy => 64 << 10,
                Sink::Discard => 1 << 20,
            }
        ];
        while bytes < expected {
            let read = match self.sink {
                Sink::Copy => tcp.read(&mut buffer),
                Sink::Discard => {
                    recv(tcp.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC).map_err(io::Error::from)
                }
            };
            match read {
                Ok(0) => bail!("the body ended at {bytes} of {expected} bytes"),
                Ok(read) => bytes += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(format!("at {bytes} of {expected} bytes")),
            }
            let now = Instant::now();
            first_byte.get_or_insert_with(|| now - start);
            ensure!(
                END.get().is_none_or(|end| now < *end),
                "the time of the run is up"
            );
        }
        let took = start.elapsed();
        Ok(Got {
            bytes,
            first_byte: first_byte.unwrap_or(took),
            took,
        })
    }

    /// Connects and sends the request.
    pub fn ask(&self) -> Result<TcpStream> {
        let mut tcp = TcpStream::connect_timeout(&self.at, PATIENCE)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let range = self.range.map_or_else(String::new, |(first, last)| {
            format!("Range: bytes={first}-{last}\r\n")
        });
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n{range}Connection: close\r\n\r\n",
            self.target, self.at
        );
        tcp.write_all(request.as_bytes())?;
        Ok(tcp)
    }
}

/// Reads to the end of the head. Gives the body's length, and how much of it came along.
pub fn read_head(tcp: &mut TcpStream, partial: bool) -> Result<(u64, u64)> {
    let mut head = [0; 16 << 10];
    let mut filled = 0;
    let end = loop {
        let read = tcp.read(&mut head[filled..]).context("no head came")?;
        ensure!(read > 0, "the connection ended before the head did");
        filled += read;
        if let Some(end) = head[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(filled < head.len(), "the head does not end");
    };
    let text = std::str::from_utf8(&head[..end]).context("a head that is not text")?;
    let wanted = if partial { " 206 " } else { " 200 " };
    let (status, fields) = text.split_once("\r\n").unwrap_or((text, ""));
    ensure!(status.contains(wanted), "the answer is {status}");
    let length = fields.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.trim().parse::<u64>().ok())?
    });
    let length = length.context("an answer without Content-Length")?;
    Ok((length, (filled - end) as u64))
}

/// Makes this many downloads at once, a thread each, and gives what each got and the time from the
/// common start to the last end.
pub fn together<G>(clients: usize, get: G) -> Result<(Vec<Got>, Duration)>
where
    G: Fn(usize) -> Result<Got> + Sync,
{
    let gate = Barrier::new(clients + 1);
    std::thread::scope(|scope| {
        let client = |number| {
            let (gate, get) = (&gate, &get);
            move || {
                gate.wait();
                get(number)
            }
        };
        let clients: Vec<_> = (0..clients).map(|n| scope.spawn(client(n))).collect();
        gate.wait();
        let start = Instant::now();
        let mut got = Vec::with_capacity(clients.len());
        for client in clients {
            let Ok(one) = client.join() else {
                bail!("a client panicked");
            };
            got.push(one);
        }
        let took = start.elapsed();
        Ok((got.into_iter().collect::<Result<_>>()?, took))
    })
}
