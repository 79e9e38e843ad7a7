//! `larder peers`: the other members of the cluster, as this node sees them.

use http::Method;
use larder_shared::admin::{MemberStatus, Status};

use super::{
    show::{say, say_json},
    socket::{SocketArgs, asked},
    status::say_cluster,
    table::{Column, say_table},
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  larder peers
  larder peers --json | jq -r '.members[] | select(.state != \"ok\").address'

STATE is ok; avoided, for a while after a failure; or distrusted, after wrong bytes. `--json` prints null if no peers
are configured.")]
pub struct PeersArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

pub fn peers(args: &PeersArgs) -> anyhow::Result<u8> {
    let status: Status = asked(&args.socket, Method::GET, "/status")?;
    if args.socket.json {
        say_json(&status.cluster)?;
        return Ok(0);
    }
    let Some(cluster) = &status.cluster else {
        say("no peers are configured: set [cluster] listen and members");
        return Ok(0);
    };
    let row = |member: &MemberStatus| {
        let own = if member.own { "this node" } else { "" };
        vec![member.address.clone(), member.state.clone(), own.to_owned()]
    };
    let columns = [
        Column::Word("MEMBER"),
        Column::Word("STATE"),
        Column::Word(""),
    ];
    say_table(&columns, cluster.members.iter().map(row).collect());
    say_cluster(cluster);
    Ok(0)
}
