//! Rights, kernel version, and what the kernel can do, proved where it costs nobody anything.

use std::{fs, path::Path, thread};

use nix::sched::{CloneFlags, unshare};

use super::Finding;
use crate::{
    config::Settings,
    daemon::{datapath, facts},
    kernel::{
        Kernel, KernelError, fastpath,
        filter::{Flavour, HostFilter},
        linux::{LinuxKernel, Scope},
    },
    model::{Backend, Device, Family, Key, Mac, Network, Object, Op, Tun, VxlanConfig},
    plan::Facts,
    userspace,
};

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
/// The loopback interface of every network namespace.
const LOOPBACK: u32 = 1;
/// Nexthop objects came with this.
const NEXTHOPS: (u32, u32) = (5, 3);

/// What does not depend on the network config.
pub(super) fn host() -> Vec<Finding> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![rights(&status), version(release.trim()), object(), tun()]
}

fn rights(status: &str) -> Finding {
    match effective(status) {
        Some(set) if set & (1 << NET_ADMIN) != 0 => Finding::ok("rights", "CAP_NET_ADMIN is there"),
        Some(_) => Finding::fail(
            "rights",
            "CAP_NET_ADMIN is missing: no device, route or rule can be made",
            "run as root, or with AmbientCapabilities=CAP_NET_ADMIN in the unit",
        ),
        None => Finding::warn("rights", "/proc does not tell our capabilities", "mount /proc"),
    }
}

/// Effective capabilities out of `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn version(release: &str) -> Finding {
    match parse_version(release) {
        Some(version) if version >= NEXTHOPS => Finding::ok("kernel", format!("Linux {release}")),
        Some(_) => Finding::warn(
            "kernel",
            format!("Linux {release} has no nexthop objects: with thousands of peers routes take long to put"),
            "use Linux 5.3 or later",
        ),
        None => Finding::warn("kernel", format!("cannot make out the kernel version {release:?}"), ""),
    }
}

/// `6.1.0-13-amd64` is 6.1.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What the fast path needs.
fn object() -> Finding {
    match fastpath::probe() {
        Ok(()) => Finding::ok("BPF programs", "embedded, and the kernel's verifier takes them"),
        Err(error) => Finding::warn(
            "BPF programs",
            format!("{error}"),
            "packets take the kernel's VXLAN device; see docs/operations.md, \"The fast path\"",
        ),
    }
}

fn tun() -> Finding {
    let detail = if Path::new("/dev/net/tun").exists() { "is there" } else { "is not there" };
    Finding::ok("/dev/net/tun", format!("{detail} (only the userspace datapath needs it)"))
}

/// Tries what `run` would do, in a network namespace that is thrown away.
pub(super) fn proofs(settings: &Settings, network: &Network) -> Vec<Finding> {
    let (settings, network) = (settings.clone(), network.clone());
    let tried = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(try_all(&settings, &network)),
        Err(errno) => Err(errno),
    });
    match tried.join() {
        Ok(Ok(findings)) => findings,
        Ok(Err(errno)) => vec![Finding::warn(
            "proof",
            format!(
                "VXLAN, nexthop objects, packet filter and what helps the userspace datapath are not proved: a network \
                 namespace to try them in: {errno}"
            ),
            "run it with CAP_SYS_ADMIN",
        )],
        Err(_) => vec![Finding::fail("proof", "the trial ended unexpectedly", "")],
    }
}

fn try_all(settings: &Settings, network: &Network) -> Vec<Finding> {
    let filter = HostFilter::open(facts::filter_choice(settings.filter.flavour));
    let (flavour, why) = (filter.flavour(), filter.why().to_owned());
    let vni = 1;
    let scope = Scope { vni: Some(vni), udp: false, uplink: LOOPBACK, v4: network.v4, v6: network.v6, own: None };
    let mut kernel = match LinuxKernel::new(scope) {
        Ok(kernel) => kernel.with_filter(Box::new(filter)),
        Err(error) => return vec![Finding::fail("netlink", error.to_string(), "")],
    };
    let mut findings = vec![offloads(userspace::probe("probe0").map(userspace::Offloads::list))];
    if datapath::in_userspace(settings, network) {
        for family in network.families() {
            let tun = Tun { name: Facts::device_name(vni, family), mtu: 1280, up: true };
            findings.push(tun_device(family, put(&mut kernel, Key::Device(family), Object::Tun(tun))));
        }
    } else if let Backend::Vxlan(vxlan) = &network.backend {
        for family in network.families() {
            findings.push(device(
                family,
                put(&mut kernel, Key::Device(family), Object::Device(Box::new(sample(family, vxlan)))),
            ));
        }
        findings.push(if kernel.supports_nexthops() {
            Finding::ok("nexthop objects", "the kernel has them")
        } else {
            Finding::warn(
                "nexthop objects",
                "the kernel has none: many routes take long to put",
                "use Linux 5.3 or later",
            )
        });
    }
    let Some(policy) = facts::filter_policy(settings, network) else {
        findings.push(Finding::ok("packet filter", "no rules are asked for"));
        return findings;
    };
    let name = match flavour {
        Flavour::Nft => "nftables".to_owned(),
        Flavour::Iptables(variant) => variant.name().to_owned(),
        Flavour::None => "none".to_owned(),
    };
    findings.push(match (put(&mut kernel, Key::Filter, Object::Filter(Box::new(policy))), flavour) {
        (Ok(()), Flavour::None) => Finding::warn(
            "packet filter",
            format!("none: {why}; the node starts all the same, without what the lines below name"),
            "install the nftables package",
        ),
        (Ok(()), _) => Finding::ok("packet filter", format!("{name}: {why}; our rules load")),
        (Err(error), Flavour::None) => Finding::fail(
            "packet filter",
            format!("none: {error}; with --ip-masq the node never becomes ready like that"),
            "install the nftables package, or run without --ip-masq",
        ),
        (Err(error), _) => Finding::fail("packet filter", format!("{name}: {error}"), "install the nftables package"),
    });
    findings
}

fn device(family: Family, outcome: Result<(), KernelError>) -> Finding {
    match outcome {
        Ok(()) => Finding::ok("VXLAN device", format!("can be made, {family}")),
        Err(error) => Finding::fail("VXLAN device", error.to_string(), "load the module: modprobe vxlan"),
    }
}

fn tun_device(family: Family, outcome: Result<(), KernelError>) -> Finding {
    match outcome {
        Ok(()) => Finding::ok("TUN device", format!("can be made, {family}")),
        Err(error) => Finding::fail(
            "TUN device",
            error.to_string(),
            "load the module: modprobe tun; a container needs the device node /dev/net/tun",
        ),
    }
}

/// What lets one call of the userspace datapath carry many packets; it works without any of it.
fn offloads(list: Result<[(&'static str, bool); 6], userspace::EngineError>) -> Finding {
    let name = "userspace offloads";
    let list = match list {
        Ok(list) => list,
        Err(error) => return Finding::ok(name, format!("no userspace datapath here: {error}")),
    };
    let named = |wanted: bool| {
        let names: Vec<_> = list.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    };
    let missing = if list.iter().all(|(_, has)| *has) { String::new() } else { format!("; not {}", named(false)) };
    Finding::ok(name, format!("{}{missing} (only the userspace datapath uses them)", named(true)))
}

fn put(kernel: &mut LinuxKernel, key: Key, object: Object) -> Result<(), KernelError> {
    let op = Op { key, from: None, to: Some(object) };
    kernel.apply(&[op]).into_iter().collect()
}

fn sample(family: Family, vxlan: &VxlanConfig) -> Device {
    Device {
        name: Facts::device_name(1, family),
        vni: 1,
        port: vxlan.port,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1280,
        uplink: LOOPBACK,
        local: match family {
            Family::V4 => [192, 0, 2, 1].into(),
            Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        },
        learning: vxlan.learning,
        gbp: vxlan.gbp,
        up: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = |set: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{set}\n");
        assert_eq!(rights(&status("0000000000001000")).result, Outcome::Ok);
        assert_eq!(rights(&status("000001ffffffefff")).result, Outcome::Fail);
        assert_eq!(rights("Name:\tx\n").result, Outcome::Warn);
    }

    #[test]
    fn what_helps_and_what_is_missing_is_named() {
        let list = |has: userspace::Offloads| offloads(Ok(has.list())).detail;
        let all = userspace::Offloads::ALL;
        assert_eq!(list(all), "tso uso udp_gso udp_gro batches multi_queue (only the userspace datapath uses them)");
        assert_eq!(
            list(userspace::Offloads { uso: false, batches: false, ..all }),
            "tso udp_gso udp_gro multi_queue; not uso batches (only the userspace datapath uses them)"
        );
        assert!(list(userspace::Offloads::NONE).starts_with("none; not tso uso udp_gso"));
    }

    #[test]
    fn kernel_versions_of_all_distributions() {
        for (release, wanted) in [
            ("6.1.0-13-amd64", Some((6, 1))),
            ("5.3.0", Some((5, 3))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("6.18-rc1+", Some((6, 18))),
            ("6.6.87.2-microsoft-standard-WSL2", Some((6, 6))),
            ("", None),
            ("mainline", None),
        ] {
            assert_eq!(parse_version(release), wanted, "{release}");
        }
        assert_eq!(version("5.2.21").result, Outcome::Warn);
        assert_eq!(version("5.3.0").result, Outcome::Ok);
    }
}
