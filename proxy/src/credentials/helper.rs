//! Docker credential helpers: `docker-credential-NAME get`, a server on standard input, JSON on standard output.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use larder_shared::RegistryName;
use moka::future::Cache;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    error::{CredentialError, Fault, not_json},
    run::{Ran, run},
    secret::{Credential, Secret},
};
use crate::coalesce::Coalesce;

/// How long an answer is used again: a pull asks a dozen times, and credentials from helpers live for hours.
const FRESH: Duration = Duration::from_secs(30);

/// Docker's name for Docker Hub, when it asks a helper.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// The text that a helper writes on standard output if it has nothing for a server.
const NOTHING: &str = "credentials not found in native keychain";

/// The username that marks the secret as an identity token.
const TOKEN: &str = "<token>";

/// A helper's name and the server that it is asked about.
type Question = (String, String);
/// `None`: the helper has nothing for the server.
type HelperAnswer = Option<Credential>;

/// The helpers of the node.
pub(super) struct Helpers {
    directory: Option<PathBuf>,
    time: Duration,
    running: Arc<Semaphore>,
    answers: Cache<Question, HelperAnswer>,
    asking: Coalesce<Question, Result<HelperAnswer, CredentialError>>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: Secret,
}

impl Helpers {
    /// Helpers in `directory`, or on the PATH, each of which may take `time`.
    pub(super) fn new(directory: Option<PathBuf>, time: Duration, running: Arc<Semaphore>) -> Self {
        Self {
            directory,
            time,
            running,
            answers: Cache::builder()
                .max_capacity(1_000)
                .time_to_live(FRESH)
                .build(),
            asking: Coalesce::default(),
        }
    }

    /// The credential that the helper `name` has for `registry`.
    pub(super) async fn ask(
        &self,
        name: &str,
        registry: &RegistryName,
    ) -> Result<HelperAnswer, CredentialError> {
        let server = if registry.is_docker_hub() {
            DOCKER_HUB_SERVER
        } else {
            registry.as_str()
        };
        let question = (name.to_owned(), server.to_owned());
        if let Some(answer) = self.answers.get(&question).await {
            return Ok(answer);
        }
        let program = self.program(name);
        let (answers, running, time) = (self.answers.clone(), Arc::clone(&self.running), self.time);
        let asked = question.clone();
        let asking = async move {
            if let Some(answer) = answers.get(&asked).await {
                return Ok(answer);
            }
            let _turn = running.acquire().await;
            let arguments = ["get".to_owned()];
            let ran = run(&program, &arguments, &[], asked.1.clone().into(), time).await?;
            let answer = understood(&program, &ran)?;
            answers.insert(asked, answer.clone()).await;
            Ok(answer)
        };
        let lost =
            || CredentialError::new(Fault::Program, self.program(name).display(), "was cut off");
        self.asking
            .run(question, asking)
            .await
            .unwrap_or_else(|| Err(lost()))
    }

    /// The executable of the helper `name`.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        let file = format!("docker-credential-{name}");
        self.directory
            .as_ref()
            .map_or_else(|| PathBuf::from(&file), |directory| directory.join(&file))
    }
}

fn understood(program: &Path, ran: &Ran) -> Result<HelperAnswer, CredentialError> {
    if !ran.status.success() {
        let nothing = String::from_utf8_lossy(&ran.answer).trim() == NOTHING;
        return if nothing {
            Ok(None)
        } else {
            Err(ran.failure(program))
        };
    }
    let said: Said = serde_json::from_slice(&ran.answer).map_err(|error| {
        let what = format!(
            "answered what no helper does: {}: is it the right program?",
            not_json(&error)
        );
        CredentialError::new(Fault::Answer, program.display(), what)
    })?;
    Ok(match (said.username.as_str(), said.secret) {
        ("", secret) if secret.is_empty() => None,
        (TOKEN, secret) => Some(Credential::IdentityToken(secret)),
        (_, password) => Some(Credential::Basic {
            username: said.username,
            password,
        }),
    })
}
