//! `flannel-ctl peers`.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    output::{self, OutputArgs, Table},
    serve::{PeerReport, socket},
};

/// Arguments of `peers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory of the daemon to ask
    #[arg(long, env = "FLANNELD_RUN_DIR", default_value = "/run/flannel")]
    pub run_dir: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let peers: Vec<PeerReport> = socket::ask(&args.run_dir, "/peers")?;
    output::print(args.output.output, &peers, |peers| render(peers))?;
    Ok(ExitCode::SUCCESS)
}

fn render(peers: &[PeerReport]) -> String {
    let mut table = Table::new(["NODE", "SUBNET", "PUBLIC ADDRESS", "VTEP MAC", "VIA", "STATE", "ERROR"]);
    for peer in peers {
        table.row([
            peer.node.clone(),
            both(peer.ipv4, peer.ipv6),
            both(peer.public_ip, peer.public_ipv6),
            both(peer.vtep_mac.as_ref(), peer.vtep_mac_v6.as_ref()),
            peer.via.name().to_owned(),
            peer.state.name().to_owned(),
            peer.error.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// IPv4's and IPv6's, as far as present.
fn both<A: ToString, B: ToString>(v4: Option<A>, v6: Option<B>) -> String {
    match (v4, v6) {
        (Some(v4), Some(v6)) => format!("{},{}", v4.to_string(), v6.to_string()),
        (Some(v4), None) => v4.to_string(),
        (None, Some(v6)) => v6.to_string(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::report::{PeerState, PeerVia};

    fn peers() -> Vec<PeerReport> {
        let good = PeerReport {
            node: "beta".into(),
            key: "10.5.1.0-24&fc00:5:0:1::-64".into(),
            ipv4: "10.5.1.0/24".parse().ok(),
            ipv6: "fc00:5:0:1::/64".parse().ok(),
            public_ip: "192.0.2.2".parse().ok(),
            public_ipv6: "2001:db8::2".parse().ok(),
            vtep_mac: Some("46:82:fb:f7:52:6d".into()),
            vtep_mac_v6: None,
            via: PeerVia::Overlay,
            state: PeerState::Ok,
            error: None,
        };
        let bad = PeerReport {
            key: "10.5.2.0-24".into(),
            ipv4: "10.5.2.0/24".parse().ok(),
            public_ip: "192.0.2.3".parse().ok(),
            via: PeerVia::Direct,
            state: PeerState::Failing,
            error: Some("add route 10.5.2.0/24: Network is unreachable".into()),
            ..PeerReport::default()
        };
        vec![good, bad]
    }

    #[test]
    fn one_line_per_peer() {
        insta::assert_snapshot!(render(&peers()));
    }

    #[test]
    fn field_names_stay() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&peers()).unwrap());
    }
}
