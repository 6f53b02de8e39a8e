//! `flannel-ctl cleanup`.

use std::{path::Path, process::ExitCode};

use super::{
    logging,
    run_args::{EtcdArgs, PathArgs},
    store_session::with_etcd,
};
use crate::{
    alloc,
    config::settings::Paths,
    daemon::cleanup::{Outcome, Wish, cleanup, remove_fast_path},
    output,
    source::etcd::{Session, Write},
    state::{Lock, NodeId},
};

/// What the verb has to say beyond its options.
pub const AFTER_HELP: &str = "\
Stop the daemon first. Pods lose the overlay, unless it is --fast-path-only. Flannel's daemon uses the same device and chain names: what it may have \
made stays, unless it is asked for with --device or --all.

Exit codes: 0 all of ours is gone, 1 something could not be removed, 2 wrong usage.";

/// Arguments of `cleanup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove this VXLAN device, flannel.N or flannel-v6.N, whoever made it
    #[arg(long, value_name = "NAME")]
    pub device: Vec<String>,
    /// Remove what flannel's daemon may have made as well
    #[arg(long)]
    pub all: bool,
    /// Remove the node's identity: it comes back as another node
    #[arg(long)]
    pub forget_node: bool,
    /// Give the node's subnet back to etcd
    #[arg(long)]
    pub release: bool,
    /// Remove the BPF programs and their maps, and nothing else: packets take the kernel's VXLAN device from then on
    #[arg(long, conflicts_with_all = ["device", "all", "forget_node", "release"])]
    pub fast_path_only: bool,
    #[command(flatten)]
    pub paths: PathArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let paths = args.paths.paths()?;
    logging::only_warnings()?;
    if let Some(pid) = Lock::holder(&paths.run_dir) {
        anyhow::bail!("{}", held(&paths.run_dir, pid, args.fast_path_only));
    }
    if args.fast_path_only {
        return tell(&remove_fast_path(&paths)?);
    }
    let mut released = Outcome::default();
    if args.release {
        match release(args, &paths) {
            Ok(keys) => released.removed.extend(keys.into_iter().map(|key| format!("lease {key}"))),
            Err(error) => released.errors.push(format!("release the lease: {error:#}")),
        }
    }
    // Whoever forgets the node cannot find its lease any more.
    let forget_node = args.forget_node && released.errors.is_empty();
    let wish = Wish { devices: args.device.clone(), all: args.all, forget_node };
    let mut outcome = cleanup(&paths, &wish)?;
    outcome.removed.splice(0..0, released.removed);
    outcome.errors.extend(released.errors);
    tell(&outcome)
}

/// Why nothing is removed beside a daemon.
fn held(run_dir: &Path, pid: Option<u32>, fast_path_only: bool) -> String {
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let cure = if fast_path_only {
        "the fast path back within a second; stop it first, or start it with --datapath vxlan, which removes the fast path by itself"
    } else {
        "everything back at once; stop it first"
    };
    format!("nothing was removed: a daemon{pid} runs with run directory {} and would put {cure}", run_dir.display())
}

fn tell(outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let mut text = outcome.lines().join("\n");
    if outcome.removed.is_empty() {
        text = format!("nothing of ours was found\n{text}");
    }
    output::emit(&format!("{}\n", text.trim_end()))?;
    for error in &outcome.errors {
        tracing::error!("{error}");
    }
    Ok(if outcome.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Deletes the leases that carry this node's id; keys without an etcd lease are an operator's.
fn release(args: &Args, paths: &Paths) -> anyhow::Result<Vec<String>> {
    let Some(id) = NodeId::load(&paths.state_dir)? else { return Ok(Vec::new()) };
    with_etcd(args.etcd.etcd()?, async |session| release_of(session, &id.to_string()).await)
}

async fn release_of(session: &Session, id: &str) -> anyhow::Result<Vec<String>> {
    let records = session.list().await?.records;
    let mut released = Vec::new();
    for record in &records {
        let ours = record.lease_id != 0 && alloc::parse(&record.value).is_some_and(|value| value.node_id == id);
        if !ours {
            continue;
        }
        match session.delete(&record.key, record.modified).await? {
            Write::Done(_) => released.push(record.key.clone()),
            Write::Changed(_) => anyhow::bail!("{} changed meanwhile", record.key),
        }
        // Revoking deletes all that hangs on it: only if that is nothing any more.
        if !records.iter().any(|other| other.lease_id == record.lease_id && other.key != record.key) {
            session.revoke(record.lease_id).await?;
        }
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_daemon_it_says_which_to_stop() {
        let run_dir = Path::new("/run/flannel");
        assert_eq!(
            held(run_dir, Some(7), false),
            "nothing was removed: a daemon (pid 7) runs with run directory /run/flannel and would put everything back at once; \
             stop it first"
        );
        assert!(held(run_dir, None, true).starts_with("nothing was removed: a daemon runs with"));
    }
}
