//! Devices that we made for a VNI or a backend which the network config does not have any more.
//!
//! Left behind, such a device goes on taking in tunnel packets, and the guard lets them pass: it
//! judges those of the VNI in use. It goes once the new one carries the traffic.

use std::path::{Path, PathBuf};

use super::cleanup;
use crate::{
    kernel::{
        KernelError,
        links::Links,
        linux::{LinuxKernel, Scope},
        netlink::link::Link,
    },
    model::{Network, Route},
    plan::Facts,
    serve::Readiness,
};

/// Waits until all of the new is in place.
pub(super) async fn remove_once_ready(readiness: Readiness, state_dir: PathBuf, network: Network) {
    readiness.ready().await;
    let vni = network.backend.vni();
    let names = Facts::devices_of(&network);
    match tokio::task::spawn_blocking(move || remove(&state_dir, vni, &names)).await {
        Ok(errors) => {
            for error in errors {
                tracing::error!(%error, "cannot remove what we made for another VNI; the next start tries again");
            }
        }
        Err(error) => tracing::error!(%error, "cannot look for what we made for another VNI"),
    }
}

/// Removes devices of other VNIs whose MAC is the one that we remember having given them, and
/// that flannel has not taken back; and TUN devices with our kind of name that are none of `names`.
fn remove(state_dir: &Path, vni: Option<u32>, names: &[String]) -> Vec<KernelError> {
    match find(state_dir, vni, names) {
        Ok(found) => found.iter().flat_map(remove_one).collect(),
        Err(error) => vec![error],
    }
}

fn find(state_dir: &Path, vni: Option<u32>, names: &[String]) -> Result<Vec<Link>, KernelError> {
    let mut links = Links::open()?;
    let flannels = links.routes(Route::FLANNEL_PROTOCOL)?;
    let former = |link: &Link| {
        let other = link.vxlan.is_some_and(|vxlan| Some(vxlan.vni) != vni);
        let remembered = link.mac.is_some() && link.mac == cleanup::remembered(state_dir, link);
        other && remembered && !flannels.iter().any(|entry| entry.device == link.index)
    };
    let former_tun = |link: &Link| cleanup::is_tun_name(&link.name) && !names.contains(&link.name);
    let tuns = links.lasting_tuns()?;
    Ok(links.vxlans()?.into_iter().filter(former).chain(tuns.into_iter().filter(former_tun)).collect())
}

fn remove_one(link: &Link) -> Vec<KernelError> {
    let removed = LinuxKernel::new(Scope::default())
        .map_err(|error| vec![error])
        .and_then(|mut kernel| kernel.remove_devices(std::slice::from_ref(link)));
    match removed {
        Ok(()) => {
            tracing::info!(device = link.name, "removed the device of a VNI that the network config had before");
            Vec::new()
        }
        Err(errors) => errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::namespace::{ip, isolated};

    #[test]
    fn only_devices_that_we_remember_and_do_not_use_are_removed() {
        isolated(|| {
            let state = tempfile::tempdir().unwrap();
            for vni in [5, 6, 7, 8] {
                ip(&format!("link add flannel.{vni} address 02:00:00:00:00:0{vni} type vxlan id {vni} dstport 8472"));
                ip(&format!("link set flannel.{vni} up"));
            }
            ip("link add vpn0 address 02:00:00:00:00:06 type vxlan id 60 dstport 8472");
            ip("tuntap add flannel0 mode tun");
            let remember = |vni: u32| {
                std::fs::write(state.path().join(format!("vtep-mac.{vni}")), format!("02:00:00:00:00:0{vni}\n"))
                    .unwrap();
            };
            [5, 6, 8].into_iter().for_each(remember);
            // Flannel's again: its route leads through it.
            ip("route add 10.5.0.0/24 dev flannel.5 proto 3");
            assert!(remove(state.path(), Some(8), &["flannel.8".into()]).is_empty());
            assert_eq!(ip("-br link show type tun").lines().count(), 0, "the udp backend's is gone");
            let left = ip("-br link show type vxlan");
            let names: Vec<_> = left.lines().filter_map(|line| line.split_whitespace().next()).collect();
            assert_eq!(names, ["flannel.5", "flannel.7", "flannel.8", "vpn0"]);
        });
    }
}
