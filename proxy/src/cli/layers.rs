//! `larder layers`: the ready files of layers, and the layers that are not offered.

use clap::Args;
use http::Method;
use larder_shared::admin::{Layer, Layers};

use super::{
    images::digest,
    show::{ago, note, say, say_json, size},
    socket::{SocketArgs, asked},
    table::{Column, say_table},
};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  larder layers
  larder layers --json | jq -r '.layers[] | select(.referenced_by == 0) | .diff_id'

STATE: offered; in-use, snapshots refer to it; aside, on its way out, and no runtime finds it.
\"streams\" before it: the layer is not whole here. SIZE then says how much of it has been read, of how much.")]
pub struct LayersArgs {
    /// Print digests in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn layers(args: &LayersArgs) -> anyhow::Result<u8> {
    let layers: Layers = asked(&args.socket, Method::GET, "/layers")?;
    if args.socket.json {
        say_json(&layers)?;
        return Ok(0);
    }
    if layers.layers.is_empty() {
        say(&match layers.mode.as_str() {
            "off" => "no layers are offered: [streaming] mode is \"off\"".to_owned(),
            _ => format!("no layer is ready in {}", layers.directory),
        });
    }
    let columns = [
        Column::Word("LAYER"),
        Column::Text("IMAGE"),
        Column::Number("SIZE"),
        Column::Word("STATE"),
        Column::Number("REFERENCED BY"),
        Column::Word("LAST USED"),
    ];
    let row = |layer: &Layer| {
        let streams = if layer.streams { "streams, " } else { "" };
        let state = match &layer.goes {
            Some(why) => format!("{streams}{}, goes: {why}", layer.state),
            None => format!("{streams}{}", layer.state),
        };
        let size = if layer.streams {
            format!("{} of {}", size(layer.bytes), size(layer.whole_bytes))
        } else {
            size(layer.bytes)
        };
        vec![
            digest(
                layer.layer.as_ref().unwrap_or(&layer.diff_id),
                args.no_trunc,
            ),
            layer.image.clone().unwrap_or_default(),
            size,
            state,
            layer.referenced_by.to_string(),
            ago(layer.last_used),
        ]
    };
    say_table(&columns, layers.layers.iter().map(row).collect());
    if let Some(why) = &layers.why {
        note(&format!("nothing new is offered: {why}"));
    }
    for not in &layers.not_offered {
        note(&format!("{}: {}", not.image, not.why));
    }
    Ok(0)
}
