//! Taking back all that a daemon has left: BPF programs, kernel objects, packet filter rules, files.
//!
//! Flannel's daemon uses the same device names, chain names and subnet file. What could be its
//! work is removed only where something shows that it is ours, or when the operator says so.

mod claim;
mod files;
mod neighbour;

use std::path::Path;

use self::claim::{Sighting, claim};
use super::{StartError, vtep};
use crate::{
    config::settings::Paths,
    kernel::{
        KernelError,
        fastpath::FastPath,
        filter::{Choice, HostFilter},
        links::Links,
        linux::{LinuxKernel, Scope},
        netlink::{link::Link, route::Entry},
    },
    model::{Family, Mac, Route},
    plan::Facts,
    state::Lock,
};

/// What the operator says beyond the paths.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// VXLAN devices to remove whoever made them.
    pub devices: Vec<String>,
    /// Flannel's as well, where it cannot be told from ours.
    pub all: bool,
    /// The node's identity too.
    pub forget_node: bool,
}

/// What happened, in words.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<String>,
    /// And why.
    pub left: Vec<String>,
    pub errors: Vec<String>,
}

/// Removes it all, and goes on after a failure. An error means that nothing was touched.
pub fn cleanup(paths: &Paths, wish: &Wish) -> Result<Outcome, StartError> {
    let locked_once = paths.run_dir.join(Lock::NAME).exists();
    // Held to the end, so that no daemon starts meanwhile.
    let lock = if paths.run_dir.is_dir() { Some(Lock::acquire(&paths.run_dir)?) } else { None };
    let mut outcome = Outcome::default();
    match FastPath::remove(&paths.bpf_dir) {
        Ok(removed) => outcome.removed.extend(removed),
        Err(error) => outcome.errors.push(error.to_string()),
    }
    match host(paths, wish, locked_once, &mut outcome) {
        Ok(ours) => files::remove(paths, wish, ours, &mut outcome),
        Err(error) => outcome.errors.push(error.to_string()),
    }
    files::remove_run_dir(paths, lock.is_some(), &mut outcome);
    drop(lock);
    Ok(outcome)
}

/// Detaches the fast path and removes its pins, and nothing else: the kernel path carries what it carried, by the rules, routes
/// and lease that are there. An error means that nothing was touched.
pub fn remove_fast_path(paths: &Paths) -> Result<Outcome, StartError> {
    let locked_once = paths.run_dir.join(Lock::NAME).exists();
    let lock = if locked_once { Some(Lock::acquire(&paths.run_dir)?) } else { None };
    let mut outcome = Outcome::default();
    match FastPath::remove_alone(&paths.bpf_dir) {
        Ok((removed, liberal)) => {
            outcome.removed.extend(removed);
            outcome.left.extend(liberal.then(|| {
                "nf_conntrack_tcp_be_liberal=1: connection tracking has not seen all packets of the connections that go on; once \
                 they have ended, `sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0`, as `flannel-ctl cleanup` does"
                    .to_owned()
            }));
        }
        Err(error) => outcome.errors.push(error.to_string()),
    }
    drop(lock);
    Ok(outcome)
}

/// The kernel's share. Whether what flannel shares with us, chains and subnet file, is ours.
fn host(paths: &Paths, wish: &Wish, locked_once: bool, outcome: &mut Outcome) -> Result<bool, KernelError> {
    let mut links = Links::open()?;
    let mut filter = HostFilter::open(Choice::Auto);
    let table = filter.has_table()?;
    let routes = links.routes(Route::PROTOCOL)?;
    let nexthops = links.nexthops(Route::PROTOCOL)?;
    let flannels = links.routes(Route::FLANNEL_PROTOCOL)?;

    let mut mine: Vec<Link> = Vec::new();
    let neighbour = neighbour::flanneld().filter(|_| !wish.all);
    let mut flannel_at_work = neighbour.is_some();
    let tuns = links.lasting_tuns()?.into_iter().filter(|link| is_tun_name(&link.name));
    for link in links.vxlans()?.into_iter().filter(|link| family_of(link).is_some()).chain(tuns) {
        let through = |device: u32| device == link.index;
        let sighting = Sighting {
            our_routes: routes.iter().any(|entry| through(entry.device)),
            our_nexthops: nexthops.iter().any(|nexthop| through(nexthop.device)),
            flannels_routes: flannels.iter().any(|entry| through(entry.device)),
            mac: link.mac,
            remembered: remembered(&paths.state_dir, &link),
            table,
        };
        let asked = wish.all || wish.devices.contains(&link.name);
        match claim(&sighting) {
            _ if asked => mine.push(link),
            // In use, though no route of its own may lead through it at the moment.
            _ if link.vxlan.is_some()
                && let Some(pid) = neighbour =>
            {
                outcome.left.push(format!("device {}: flannel's daemon runs here (process {pid})", link.name));
            }
            Ok(()) => mine.push(link),
            Err(why) => {
                flannel_at_work |= sighting.flannels_routes;
                outcome.left.push(format!(
                    "device {}: {why}; `flannel-ctl cleanup --device {}` removes it nonetheless",
                    link.name, link.name
                ));
            }
        }
    }
    for name in &wish.devices {
        if !mine.iter().any(|link| link.name == *name) {
            outcome.errors.push(format!(
                "--device {name}: there is no VXLAN or TUN device flannel.N, flannel-v6.N or flannel0 of this name"
            ));
        }
    }
    let traces = locked_once || table || !routes.is_empty() || !nexthops.is_empty() || !mine.is_empty();
    let ours = wish.all || (traces && !flannel_at_work);

    // Of plain routes by way of another node flannel's daemon keeps those that are there.
    let overlay: Vec<u32> = links.vxlans()?.into_iter().chain(links.lasting_tuns()?).map(|link| link.index).collect();
    let keep = |entry: &Entry| {
        neighbour.is_some() && entry.nexthop == 0 && entry.gateway.is_some() && !overlay.contains(&entry.device)
    };
    let kept = routes.iter().filter(|entry| keep(entry)).count();
    if kept > 0 {
        outcome.left.push(format!(
            "{kept} of our routes, by way of other nodes: flannel's daemon, which runs here, goes by them"
        ));
    }
    remove_objects(&mine, &keep, outcome);
    remove_filter(&mut filter, table, ours, outcome);
    let gone = |before: usize, after: usize| before.saturating_sub(after);
    note_count(outcome, gone(routes.len(), links.routes(Route::PROTOCOL)?.len()), "route");
    note_count(outcome, gone(nexthops.len(), links.nexthops(Route::PROTOCOL)?.len()), "nexthop");
    let mut present = links.vxlans()?;
    present.extend(links.lasting_tuns()?);
    let missing = |link: &&Link| !present.iter().any(|other| other.index == link.index);
    outcome.removed.extend(mine.iter().filter(missing).map(|link| format!("device {}", link.name)));
    Ok(ours)
}

fn remove_objects(devices: &[Link], keep: &dyn Fn(&Entry) -> bool, outcome: &mut Outcome) {
    let mut note = |result: Result<(), Vec<KernelError>>| {
        outcome.errors.extend(result.err().into_iter().flatten().map(|error| error.to_string()));
    };
    match LinuxKernel::new(Scope::default()) {
        Ok(mut kernel) => {
            note(kernel.cleanup(keep));
            note(kernel.remove_devices(devices));
        }
        Err(error) => note(Err(vec![error])),
    }
}

fn remove_filter(filter: &mut HostFilter, table: bool, ours: bool, outcome: &mut Outcome) {
    let chains = match filter.has_chains() {
        Ok(chains) => chains,
        Err(error) => {
            outcome.errors.push(error.to_string());
            true
        }
    };
    let result = if ours { filter.cleanup() } else { filter.cleanup_table() };
    match result {
        Ok(()) => {
            if table {
                outcome.removed.push(format!("nftables table inet {}", crate::filter::nft::TABLE));
            }
            if chains && ours {
                outcome.removed.push("iptables chains FLANNEL-POSTRTG and FLANNEL-FWD".into());
            }
        }
        Err(error) => outcome.errors.push(error.to_string()),
    }
    if chains && !ours {
        outcome
            .left
            .push("iptables chains FLANNEL-*: they are flannel's, as far as can be seen; --all removes them".into());
    }
}

fn note_count(outcome: &mut Outcome, count: usize, what: &str) {
    match count {
        0 => {}
        1 => outcome.removed.push(format!("1 {what}")),
        _ => outcome.removed.push(format!("{count} {what}s")),
    }
}

/// The family of a VXLAN device whose name is flannel's and ours.
fn family_of(link: &Link) -> Option<Family> {
    let vni = link.vxlan?.vni;
    Family::ALL.into_iter().find(|family| Facts::device_name(vni, *family) == link.name)
}

/// A TUN device of this name that stays when nobody reads it can only be the userspace datapath's: flannel's own goes
/// with its daemon.
pub(super) fn is_tun_name(name: &str) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|vni| !vni.is_empty() && vni.bytes().all(|byte| byte.is_ascii_digit()))
    };
    name == Facts::UDP_DEVICE || numbered("flannel.") || numbered("flannel-v6.")
}

/// The address that we gave this device, as the state directory knows it.
pub(super) fn remembered(state_dir: &Path, link: &Link) -> Option<Mac> {
    let path = vtep::path(state_dir, link.vxlan?.vni, family_of(link)?);
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Words for a list of things that are done or left, one line each.
impl Outcome {
    pub fn lines(&self) -> Vec<String> {
        let removed = self.removed.iter().map(|what| format!("removed {what}"));
        removed.chain(self.left.iter().map(|what| format!("left {what}"))).collect()
    }
}
