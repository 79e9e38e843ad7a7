//! Sources outside of the process: files that rotate, and helpers and plugins that are real processes.

mod docker;
mod helper;
mod pair;
mod plugin;
mod secrecy;

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

/// A directory in place of a node's file system, and the credentials that look there.
struct Node {
    dir: tempfile::TempDir,
    credentials: Arc<Credentials>,
}

impl Node {
    fn new() -> Self {
        Self::with_time(Duration::from_secs(30))
    }

    /// A node that gives helpers and plugins this much time.
    fn with_time(time: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            helper_dir: Some(dir.path().to_owned()),
            helper_time: time,
            plugin_time: time,
            ..Settings::default()
        };
        let credentials = Arc::new(Credentials::new(settings, &Arc::new(Client::new())));
        Self { dir, credentials }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A shell script that runs in the node's directory. Another process writes it: if this one had it open for writing
    /// while another test forks, it could not be executed.
    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\ncd '{}'\n{body}\n", self.dir.path().display());
        let mut input = writer.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(writer.wait().unwrap().success());
        path
    }

    async fn lookup(
        &self,
        image: &str,
        source: &config::Credentials,
    ) -> Result<Vec<Credential>, CredentialError> {
        let (registry, repository) = image.split_once('/').unwrap();
        let (registry, repository) = (registry.parse().unwrap(), repository.parse().unwrap());
        self.credentials
            .in_source(&registry, &repository, source)
            .await
    }

    /// The error of a lookup, without the node's directory.
    async fn refused(&self, image: &str, source: &config::Credentials) -> String {
        let error = self.lookup(image, source).await.unwrap_err().to_string();
        error.replace(&format!("{}/", self.dir.path().display()), "")
    }

    /// The lines of a file that scripts write to; empty if there is no file yet.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// Waits until the script has written `count` lines.
    async fn until_lines(&self, name: &str, count: usize) {
        until(name, || self.lines(name).len() >= count).await;
    }
}

/// Waits for a condition, but not for ever.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    }
}

fn token(token: &str) -> Credential {
    Credential::IdentityToken(Secret::new(token))
}

/// A secret as long and as awkward as the key of a cloud's service account.
fn json_key() -> String {
    let line = "-----BEGIN KEY-----\\n $HOME ${x} `y` \\\"q\\\" a:b:c <&> äöü %41 +/=\t\n";
    let key = format!(
        "{{\n  \"private_key\": \"{}\",\n  'x': '$1:$2'\n}}\n",
        line.repeat(50)
    );
    assert!(key.len() > 3_000);
    key
}
