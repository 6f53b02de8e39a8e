//! The overlay of one node as leases want it, and as the kernel has it.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Lease, Netns, wait};

/// Routes, FDB entries and neighbours of the IPv4 VXLAN overlay, as short texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(BTreeSet<String>);

impl Picture {
    /// What a node with this public address should have for these leases, all of them good ones.
    pub fn of_leases(leases: &[Lease], own: Ipv4Addr) -> Result<Self> {
        let mut texts = BTreeSet::new();
        for lease in leases {
            let value: serde_json::Value = serde_json::from_str(&lease.value)?;
            let public = value["PublicIP"].as_str().context("a PublicIP")?;
            if public == own.to_string() {
                continue;
            }
            let mac = value["BackendData"]["VtepMAC"].as_str().context("a VtepMAC")?.to_lowercase();
            let key = lease.key.split('+').next().unwrap_or_default();
            let (base, length) = key.split_once('-').context("a key")?;
            texts.insert(format!("route {base}/{length}"));
            texts.insert(format!("neighbour {base} {mac}"));
            texts.insert(format!("fdb {mac} {public}"));
        }
        Ok(Self(texts))
    }

    /// What the kernel has on flannel.1.
    pub fn of_kernel(node: &Netns) -> Result<Self> {
        let mut texts = BTreeSet::new();
        for line in node.run("ip -4 route show table main proto 102")?.lines() {
            let mut words = line.split_whitespace();
            let net = words.next().unwrap_or_default();
            if words.next() != Some("blackhole") && net != "blackhole" {
                texts.insert(format!("route {net}"));
            }
        }
        for line in node.run("ip -4 neighbour show dev flannel.1 nud permanent")?.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [base, "lladdr", mac, ..] = words[..] {
                texts.insert(format!("neighbour {base} {mac}"));
            }
        }
        for line in node.run("bridge fdb show dev flannel.1")?.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [mac, "dst", ip, ..] = words[..] {
                texts.insert(format!("fdb {mac} {ip}"));
            }
        }
        Ok(Self(texts))
    }

    /// Waits until the kernel is as wanted; otherwise an error with what differs.
    pub fn wait_for(&self, node: &Netns, limit: Duration) -> Result<()> {
        let mut last = Self::default();
        let came = wait::until("the kernel to be as the leases say", limit, || {
            last = Self::of_kernel(node).ok()?;
            (last == *self).then_some(())
        });
        let differ = |a: &Self, b: &Self| a.0.difference(&b.0).take(8).cloned().collect::<Vec<_>>().join(", ");
        ensure!(came.is_ok(), "{}: missing: {}; too much: {}", node.name(), differ(self, &last), differ(&last, self));
        Ok(())
    }

    /// Whether it has this text, such as `fdb 02:00:00:00:00:01 192.168.0.2`.
    pub fn has(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    /// How many routes there are.
    pub fn routes(&self) -> usize {
        self.0.iter().filter(|text| text.starts_with("route ")).count()
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|text| writeln!(f, "{text}"))
    }
}
