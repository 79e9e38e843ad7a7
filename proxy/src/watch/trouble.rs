//! The watcher's failures, in words, with the fix.

use std::{collections::HashSet, io, path::Path};

/// Why a round failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// There is nothing at the socket's path.
    Missing,
    /// Something other than a socket is there.
    NotASocket,
    /// No process listens at the socket.
    NobodyListens,
    /// This process may not use the socket.
    Denied,
    /// Any other failure to connect, in the kernel's words.
    Unreachable(String),
    /// No answer to this question within its time.
    Hangs(&'static str),
    /// The round as a whole took too long.
    Slow,
    /// The connection ended during this question.
    Closed(&'static str),
    /// What listens speaks neither containerd's API nor the CRI.
    NotARuntime,
    /// The runtime refused a question.
    Refused {
        question: &'static str,
        code: tonic::Code,
        message: String,
    },
    /// The file cannot be written.
    Unwritten(String),
}

impl Trouble {
    /// Why the socket at `path` could not be connected to.
    pub fn of_connecting(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Denied,
            // The queue of connections is full, because no process accepts them.
            io::ErrorKind::WouldBlock => Self::Hangs("connect"),
            io::ErrorKind::ConnectionRefused if is_socket(path) => Self::NobodyListens,
            io::ErrorKind::ConnectionRefused => Self::NotASocket,
            _ => Self::Unreachable(error.to_string()),
        }
    }

    pub fn of_writing(error: &io::Error) -> Self {
        Self::Unwritten(error.to_string())
    }

    /// The code with which the runtime refused the question, if it refused it.
    pub fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The cause, without details: two troubles of the same cause are the same for the operator.
    fn cause(&self) -> String {
        match self {
            Self::Refused { question, code, .. } => format!("{question} {code:?}"),
            other => format!("{other:?}"),
        }
    }

    /// What happened, and how to fix it. `socket` is the runtime's socket, `file` the file to write.
    pub fn words(&self, socket: &Path, file: &Path) -> String {
        let (socket, file) = (socket.display(), file.display());
        match self {
            Self::Missing => format!(
                "there is no socket at {socket}: start the runtime, or name its socket with --socket; in a container, mount \
                 the socket's directory at the same path"
            ),
            Self::NotASocket => {
                format!("{socket} is no socket: name the runtime's socket with --socket")
            }
            Self::NobodyListens => format!(
                "no process listens at {socket}: start the runtime; if it runs, the socket's file is from before its \
                 restart: in a container, mount the directory of the socket and not the socket itself"
            ),
            Self::Denied => format!(
                "larder may not use {socket}: run `larder runtime` as root, to which the socket belongs, and on a node with \
                 SELinux as spc_t"
            ),
            Self::Unreachable(error) => format!("cannot connect to {socket}: {error}"),
            Self::Hangs(question) => format!(
                "the runtime at {socket} does not answer {question}: it hangs or is overloaded; look at its log, and \
                 restart it if it stays so"
            ),
            Self::Slow => format!(
                "the runtime at {socket} answers too slowly for one whole round: it is overloaded; ask more rarely, with \
                 a longer --every"
            ),
            Self::Closed(question) => {
                format!(
                    "the runtime at {socket} closed the connection during {question}: it restarts, or its log says why"
                )
            }
            Self::NotARuntime => format!(
                "what listens at {socket} is neither containerd nor a CRI runtime such as CRI-O: name the runtime's socket \
                 with --socket (docker.sock is none of these; Docker's containerd has /run/containerd/containerd.sock)"
            ),
            Self::Refused {
                question,
                code,
                message,
            } => format!(
                "the runtime at {socket} refuses {question} ({code:?}: {message}): look at its log"
            ),
            Self::Unwritten(error) => format!(
                "cannot write {file}: {error}; make its directory, and let larder write there, or name another file with \
                 --file"
            ),
        }
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_socket())
}

/// The troubles told since the runtime last answered: each is told once.
#[derive(Debug, Default)]
pub struct Told(HashSet<String>);

impl Told {
    /// Whether this trouble is yet to be told.
    pub fn is_new(&mut self, trouble: &Trouble) -> bool {
        self.0.insert(trouble.cause())
    }

    /// The runtime has answered all questions. Returns whether there was trouble before.
    pub fn is_over(&mut self) -> bool {
        let over = !self.0.is_empty();
        self.0.clear();
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_is_told_once_until_it_is_over() {
        let mut told = Told::default();
        let refused = |message: &str| Trouble::Refused {
            question: "/a",
            code: tonic::Code::Internal,
            message: message.to_owned(),
        };
        assert!(!told.is_over());
        assert!(told.is_new(&Trouble::Missing) && !told.is_new(&Trouble::Missing));
        assert!(told.is_new(&Trouble::Hangs("/a")) && told.is_new(&Trouble::Hangs("/b")));
        // The text of a refusal may contain a time or a number, so it does not count.
        assert!(told.is_new(&refused("at 1")) && !told.is_new(&refused("at 2")));
        assert!(!told.is_new(&Trouble::Missing));
        assert!(told.is_over() && !told.is_over());
        assert!(told.is_new(&Trouble::Missing));
    }
}
