//! Chromium without a screen, driven through chromedriver by WebDriver, and by the browser's own protocol where
//! WebDriver has no command.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::BASE64;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{free_port, until};
use crate::http::Call;

/// How long a browser may take to start, and a page to reach its expected state, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(50);

/// One browser with an empty profile, and one tab. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    /// `http://127.0.0.1:PORT/session/ID`
    session: String,
    /// Profile, home, and the driver's log.
    dir: TempDir,
}

impl Browser {
    /// Starts chromedriver, and Chromium by it.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("larder-browser-")
            .tempdir()?;
        let port = free_port()?;
        let log = dir.path().join("log");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .arg(format!("--log-path={}", log.display()))
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The browser is chromedriver's child, and has many children of its own: one signal ends the whole group.
            .process_group(0)
            .spawn()
            .context("starting chromedriver; scripts/test installs it")?;
        let url = format!("http://127.0.0.1:{port}");
        let mut browser = Self {
            driver,
            session: url.clone(),
            dir,
        };
        let listening = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("chromedriver listens", PATIENCE, listening).await?;
        let profile = browser.dir.path().join("profile");
        let started = browser
            .ask("POST", "/session", &capabilities(&profile))
            .await;
        let started = started.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        let id = started["sessionId"].as_str().context("no session")?;
        browser.session = format!("{url}/session/{id}");
        // A new browser shows a page of its own.
        browser.open("about:blank").await?;
        browser.requests().await?;
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.ask("POST", "/url", &json!({ "url": url })).await?;
        Ok(())
    }

    /// Runs a script in the page and gives its return value.
    pub async fn run(&self, script: &str) -> Result<Value> {
        let script = json!({ "script": script, "args": [] });
        self.ask("POST", "/execute/sync", &script).await
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.value(expression).await?;
            if value == Value::Bool(true) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = self.value("document.body.innerText").await?;
                bail!("not within {PATIENCE:?}: {expression} ({value}) in\n{text}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// An expression's value, by the browser's own protocol, which works also where the page may run no script.
    pub async fn value(&self, expression: &str) -> Result<Value> {
        let evaluate = json!({ "expression": expression, "returnByValue": true });
        let answer = self.protocol("Runtime.evaluate", evaluate).await?;
        ensure!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Clicks the element of a selector where a person would: in its middle.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let find = json!({ "using": "css selector", "value": selector });
        let found = self.ask("POST", "/element", &find).await?;
        let id = found.as_object().and_then(|found| found.values().next());
        let id = id.and_then(Value::as_str).context("no element")?;
        self.ask("POST", &format!("/element/{id}/click"), &json!({}))
            .await?;
        Ok(())
    }

    /// Types into the focused element.
    pub async fn type_text(&self, text: &str) -> Result<()> {
        for letter in text.chars() {
            let key = json!({ "type": "char", "text": letter.to_string() });
            self.protocol("Input.dispatchKeyEvent", key).await?;
        }
        Ok(())
    }

    /// A command of the browser's own protocol.
    pub async fn protocol(&self, command: &str, parameters: Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.ask("POST", "/goog/cdp/execute", &body).await
    }

    /// `light` or `dark`, as if the system preferred it.
    pub async fn scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.protocol("Emulation.setEmulatedMedia", features)
            .await?;
        Ok(())
    }

    /// Sets the screen's size; a width below 600 is a phone's.
    pub async fn screen(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.protocol("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        Ok(())
    }

    /// A picture of the whole page, as PNG.
    pub async fn picture(&self, path: &Path) -> Result<()> {
        let size = self.protocol("Page.getLayoutMetrics", json!({})).await?;
        let height = &size["cssContentSize"]["height"];
        let width = self.value("innerWidth").await?;
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let shot = json!({ "captureBeyondViewport": true, "clip": clip });
        let answer = self.protocol("Page.captureScreenshot", shot).await?;
        let picture = answer["data"].as_str().context("no picture")?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, BASE64.decode(picture.as_bytes())?)?;
        Ok(())
    }

    /// The console's entries since the last look, loading errors included.
    pub async fn console(&self) -> Result<Vec<Value>> {
        self.log("browser").await
    }

    /// The URLs of all requests since the last look.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await? {
            let message = entry["message"].as_str().context("a message")?;
            let message: Value = serde_json::from_str(message)?;
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"].as_str();
                urls.push(url.context("a URL")?.to_owned());
            }
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let entries = self
            .ask("POST", "/se/log", &json!({ "type": kind }))
            .await?;
        Ok(entries.as_array().cloned().unwrap_or_default())
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let call = Call::new(method, format!("{}{path}", self.session));
        let call = call.header("content-type", "application/json");
        let call = call.body(body.to_string());
        let answer = call
            .send()
            .await
            .with_context(|| format!("{method} {path}"))?;
        let mut value = answer.json();
        ensure!(answer.status == 200, "{method} {path} {body}: {value}");
        Ok(value["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver has not been waited for yet, so its id is still its own.
        let group = Pid::from_raw(self.driver.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}

/// The browser sends nothing of its own outside this machine, and resolves no name.
fn capabilities(profile: &Path) -> Value {
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-breakpad",
        "--disable-component-update",
        "--disable-crash-reporter",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        "--window-size=1280,900",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments },
    } } })
}
