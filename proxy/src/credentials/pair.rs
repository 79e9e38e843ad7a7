//! A username and a password in two files, as an Opaque Secret is mounted.

use std::path::Path;

use super::{
    error::{CredentialError, Fault},
    file,
    secret::{Credential, Secret},
};

/// How often the pair is read again if it changes meanwhile.
const ATTEMPTS: u32 = 4;

/// Reads the pair. May block.
pub(super) fn read(username: &Path, password: &Path) -> Result<Credential, CredentialError> {
    let mut name = line(username)?;
    for _ in 0..ATTEMPTS {
        let password = line(password)?;
        // A Secret's update changes both files at once, but they are read one after the other.
        let again = line(username)?;
        if again == name {
            return basic(username, name.expose(), password);
        }
        name = again;
    }
    Err(CredentialError::new(
        Fault::File,
        username.display(),
        "changes all the time: write it once, then rename it into place",
    ))
}

fn basic(path: &Path, username: &str, password: Secret) -> Result<Credential, CredentialError> {
    if username.contains(':') {
        return Err(CredentialError::new(
            Fault::Content,
            path.display(),
            "holds a `:`, which no username can: put the password into `password_file`",
        ));
    }
    Ok(Credential::Basic {
        username: username.to_owned(),
        password,
    })
}

/// The file's text, byte for byte. One newline at the end is dropped, which editors and `echo` add.
fn line(path: &Path) -> Result<Secret, CredentialError> {
    let wrong = |what: &str| CredentialError::new(Fault::Content, path.display(), what);
    let mut text = String::from_utf8(file::read(path)?.bytes)
        .map_err(|_| wrong("not UTF-8: save it as UTF-8 text"))?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err(wrong(
            "empty: put the value into it, or name the right file",
        ));
    }
    Ok(Secret::new(text))
}
