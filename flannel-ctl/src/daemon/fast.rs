//! The fast path as this node's settings, machine and network want it.

use std::fs;

use crate::{config::Settings, kernel::fastpath::Sizes, model::Network, plan::facts::FastOptions};

pub(super) fn options(settings: &Settings) -> FastOptions {
    FastOptions {
        enabled: settings.fast_path.enabled,
        validity: settings.fast_path.validity,
        pod_rate: settings.fast_path.pod_rate,
    }
}

/// What the operator says, or what fits this machine and network.
pub(super) fn sizes(settings: &Settings, network: &Network) -> Sizes {
    let memory = memory_kib().unwrap_or(0);
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    let asked = &settings.fast_path;
    Sizes {
        flows: asked.flows.unwrap_or_else(|| room_for_flows(memory, cpus)),
        peers: asked.peers.unwrap_or_else(|| room_for_peers(network)),
        pods: asked.pods.unwrap_or_else(|| room_for_pods(memory)),
    }
}

/// One in each direction for every 256 KiB of memory, within bounds: on a machine of 16 GiB that is 65,536
/// flows and some 35 MB, a fifth of a hundredth.
fn room_for_flows(memory_kib: u64, cpus: u64) -> u32 {
    const FEWEST: u64 = 8192;
    /// Each processor keeps up to 128 entries in stock (`LOCAL_FREE_TARGET`, `kernel/bpf/bpf_lru_list.c`, 6.18), where no
    /// flow is: four times that leaves most of a small map to flows.
    const FEWEST_PER_CPU: u64 = 512;
    const MOST: u64 = 1 << 18;
    const MEMORY_PER_FLOW_KIB: u64 = 256;
    let fewest = FEWEST.max(FEWEST_PER_CPU * cpus).min(MOST);
    power_of_two((memory_kib / MEMORY_PER_FLOW_KIB).clamp(fewest, MOST))
}

/// One for each subnet that the network can be cut into, of both families: more than that cannot be leased. A tenth of a KiB each.
fn room_for_peers(network: &Network) -> u32 {
    const FEWEST: u64 = 256;
    const MOST: u64 = 1 << 16;
    let subnets = |family| {
        let range = network.range(family)?;
        1_u64.checked_shl(range.subnet_len.saturating_sub(range.network.prefix_len()).into())
    };
    let all = network.families().map(|family| subnets(family).unwrap_or(MOST)).fold(0, u64::saturating_add);
    power_of_two(all.clamp(FEWEST, MOST))
}

/// One for every 4 MiB of memory, within bounds. A tenth of a KiB each.
fn room_for_pods(memory_kib: u64) -> u32 {
    power_of_two((memory_kib / 4096).clamp(1 << 10, 1 << 14))
}

fn power_of_two(count: u64) -> u32 {
    u32::try_from(count.next_power_of_two()).unwrap_or(u32::MAX)
}

/// Of the whole machine.
fn memory_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::netconf;

    #[test]
    fn there_is_room_for_every_subnet_of_the_network() {
        let room = |keys: &str| {
            let text = format!(r#"{{{keys}, "Backend": {{"Type": "vxlan"}}}}"#);
            room_for_peers(&netconf::parse(text.as_bytes()).unwrap())
        };
        assert_eq!(room(r#""Network": "10.5.0.0/24", "SubnetLen": 28"#), 256, "not fewer than that");
        assert_eq!(room(r#""Network": "10.5.0.0/16", "SubnetLen": 26"#), 1024);
        let both = r#""Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network""#;
        assert_eq!(room(&format!(r#"{both}: "fd05::/56""#)), 512);
        assert_eq!(room(&format!(r#"{both}: "fd05::/16", "IPv6SubnetLen": 112"#)), 65_536);
    }

    #[test]
    fn flows_and_pods_get_a_share_of_the_memory() {
        const GIB: u64 = 1 << 20;
        assert_eq!([0, 16 * GIB, 1024 * GIB].map(|memory| room_for_flows(memory, 4)), [8192, 65_536, 262_144]);
        assert_eq!(room_for_flows(GIB, 64), 32_768, "processors keep some in stock");
        assert_eq!([0, 16 * GIB, 1024 * GIB].map(room_for_pods), [1024, 4096, 16_384]);
    }
}
