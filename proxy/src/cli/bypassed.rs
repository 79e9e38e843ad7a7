//! Warns when containerd's files stop naming larder while the daemon runs. A removal may have cleaned this node and
//! then failed on another one. The daemon then runs on, and no client asks it.

use std::{thread, time::Duration};

use super::{doctor, node_files::NodeFiles};

/// The time between two looks. A look reads a handful of small files.
const PAUSE: Duration = Duration::from_secs(10);

/// A change since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    /// The files name larder no longer.
    Gone,
    /// The files name larder now.
    Named,
}

/// Looks at the files for as long as the process lives. A thread of its own does it, since a disk may hang.
pub fn watch(files: NodeFiles, port: u16) {
    let look = move || {
        let mut was = None;
        loop {
            let now = doctor::names_larder(&files, port);
            match news(&mut was, now) {
                Some(News::Gone) => tracing::warn!(
                    fix = files.how_to_install(None),
                    "containerd's files do not name larder any more, so every pull of this node bypasses it; \
                     a removal is under way or has failed on another node"
                ),
                Some(News::Named) => {
                    tracing::info!("containerd's files name larder");
                }
                None => {}
            }
            thread::sleep(PAUSE);
        }
    };
    let begun = thread::Builder::new().name("node-files".into()).spawn(look);
    if let Err(error) = begun {
        tracing::warn!(%error, "larder does not check whether containerd's files name it");
    }
}

/// `now` says whether a file names larder; `None` if the files cannot be seen. Files that never named larder are the
/// operator's choice, and no news.
fn news(was: &mut Option<bool>, now: Option<bool>) -> Option<News> {
    match (was.replace(now?), now?) {
        (Some(true), false) => Some(News::Gone),
        (None | Some(false), true) => Some(News::Named),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_said() {
        let mut never = None;
        assert_eq!(news(&mut never, Some(false)), None);
        assert_eq!(news(&mut never, Some(false)), None);
        let mut was = None;
        let looks = [
            (None, None),
            (Some(true), Some(News::Named)),
            (Some(true), None),
            (None, None),
            (Some(false), Some(News::Gone)),
            (Some(false), None),
            (Some(true), Some(News::Named)),
            (None, None),
            (Some(false), Some(News::Gone)),
        ];
        for (number, (now, said)) in looks.into_iter().enumerate() {
            assert_eq!(news(&mut was, now), said, "look {number}");
        }
    }
}
