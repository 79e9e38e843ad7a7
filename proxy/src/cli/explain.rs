//! `larder explain REF`: what a pull would do, and why.

use http::Method;
use larder_shared::admin::Explanation;

use super::{
    show::say,
    socket::{SocketArgs, ask, encoded, read},
};

#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The image, as in a pod: `nginx`, `ghcr.io/owner/app:v1`, `quay.io/a/b@sha256:…`
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn explain(args: &ExplainArgs) -> anyhow::Result<u8> {
    let text = ask(
        &args.socket,
        Method::GET,
        &format!("/explain?ref={}", encoded(&args.image)),
    )?;
    if args.socket.json {
        say(&text);
        return Ok(0);
    }
    let explanation: Explanation = read(&text)?;
    say(&explanation.image);
    for step in &explanation.steps {
        say(&format!(
            "  {:<10} {:<10} {}",
            step.step, step.outcome, step.detail
        ));
    }
    Ok(0)
}
