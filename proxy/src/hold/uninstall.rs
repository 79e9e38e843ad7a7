//! `larder hold --uninstall`: asks the holder to end.

use std::path::Path;

use super::{
    talk::{Ended, Talk},
    wire::{Message, Role},
};

/// Has the holder unmount the files; with `force` also for containers that use them. Returns the holder's answer.
///
/// # Errors
/// For people: no holder listens, or it refuses.
pub async fn uninstall(socket: &Path, force: bool) -> Result<String, String> {
    let asked = async {
        let talk = Talk::begin(socket, Role::Operator).await?;
        talk.say(&Message::Uninstall { force }).await?;
        match talk.hear_soon().await? {
            (Message::Done(words), None) => Ok(words),
            _ => Err(Ended::Foreign),
        }
    };
    asked
        .await
        .map_err(|ended| format!("the holder at {}: {ended}", socket.display()))
}
