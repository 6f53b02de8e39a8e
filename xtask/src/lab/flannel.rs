//! A node as flannel 0.28 leaves it, made by hand: for taking over from, living beside, and comparing with.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, Family, Node, netns, wait};

const PREFIX: &str = "/coreos.com/network/subnets";

/// A node that flannel has set up; its daemon does not run.
#[derive(Clone, Copy, Debug)]
pub struct Flannel<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
}

/// Which tool flannel's rules are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlannelRules {
    Iptables,
    Nftables,
}

impl<'a> Flannel<'a> {
    /// Devices with random addresses, the lease in flannel's form, subnet.env; the node's number is in its subnets.
    pub fn lay_out(cluster: &'a Cluster, number: usize) -> Result<Self> {
        let node = cluster.node(number);
        let flannel = Self { cluster, node };
        for family in cluster.families() {
            flannel.make_device(*family)?;
        }
        fs::create_dir_all(node.run_dir())?;
        fs::write(node.subnet_file(), flannel.subnet_env())?;
        flannel.put_lease()?;
        Ok(flannel)
    }

    /// A whole cluster of three dual-stack nodes: 1 and 2 are ours, 3 is flannel's.
    pub fn beside_ours(prefix: &str) -> Result<Cluster> {
        let cluster = Cluster::builder(prefix).nodes(3).dual_stack().prepare()?;
        let flannel = Flannel::lay_out(&cluster, 3)?;
        for number in [1, 2] {
            cluster.node(number).start()?;
            cluster.node(number).wait_ready()?;
            flannel.meet(cluster.node(number))?;
        }
        for node in cluster.nodes() {
            node.wire_pod()?;
        }
        let mesh = cluster.wait_mesh(wait::LONG)?;
        ensure!(mesh.whole(), "{mesh}");
        Ok(cluster)
    }

    fn make_device(&self, family: Family) -> Result<()> {
        let (device, number) = (device(family), self.node.number());
        let (local, mac) = (self.node.address(family), random_mac());
        let (address, mtu) = match family {
            Family::V4 => (format!("10.244.{number}.0/32"), 1450),
            Family::V6 => (format!("fd10:244:0:{number:x}::/128"), 1430),
        };
        self.node.netns().ip(&format!(
            "link add {device} address {mac} mtu {mtu} txqueuelen 0 type vxlan id 1 local {local} dev eth0 \
             dstport 8472 nolearning\n\
             address add {address} dev {device}\n"
        ))?;
        self.node.netns().ip(&format!("link set {device} up\n"))
    }

    fn subnet_env(&self) -> String {
        let number = self.node.number();
        let pairs = self.cluster.families().iter().map(|family| match family {
            Family::V4 => format!("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{number}.1/24\n"),
            Family::V6 => {
                format!("FLANNEL_IPV6_NETWORK=fd10:244::/48\nFLANNEL_IPV6_SUBNET=fd10:244:0:{number:x}::1/64\n")
            }
        });
        pairs.collect::<String>() + "FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    }

    /// Key of the lease under `subnets/`.
    pub fn key(&self) -> String {
        let number = self.node.number();
        let v4 = format!("10.244.{number}.0-24");
        match self.cluster.families() {
            [Family::V4] => v4,
            [_, _] => format!("{v4}&fd10:244:0:{number:x}::-64"),
            _ => format!("fd10:244:0:{number:x}::-64"),
        }
    }

    /// No node identity is in it, and it hangs on a lease of a day.
    fn put_lease(&self) -> Result<()> {
        let mac = |family| Ok::<_, anyhow::Error>(serde_json::json!({"VNI": 1, "VtepMAC": mac_of(self.node, family)?}));
        let mut value = serde_json::json!({
            "PublicIP": self.node.address(Family::V4), "PublicIPv6": null, "BackendType": "vxlan",
        });
        for family in self.cluster.families() {
            match family {
                Family::V4 => value["BackendData"] = mac(*family)?,
                Family::V6 => {
                    value["PublicIPv6"] = self.node.address(*family).to_string().into();
                    value["BackendV6Data"] = mac(*family)?;
                }
            }
        }
        let granted = self.cluster.etcdctl(&["lease", "grant", "86400"])?;
        let id = granted.split(' ').nth(1).context("etcdctl's answer to a grant")?;
        let key = format!("{PREFIX}/{}", self.key());
        self.cluster.etcdctl(&["put", &format!("--lease={id}"), &key, &value.to_string()]).map(drop)
    }

    /// Neighbour, forwarding entry and route to another node, whoever set that up: what flannel does on an event.
    pub fn meet(&self, other: &Node) -> Result<()> {
        let env = other.subnet_env()?;
        for family in self.cluster.families() {
            let device = device(*family);
            let mac = mac_of(other, *family)?;
            let subnet = env.subnet(*family).context("a subnet of the family")?;
            // The bridge's address is the base address and 1.
            let (bridge, length) = subnet.split_once('/').context("a prefix length")?;
            let base = match family {
                Family::V4 => format!("{}0", bridge.strip_suffix('1').context("flannel's bridge address")?),
                Family::V6 => bridge.strip_suffix('1').context("flannel's bridge address")?.to_owned(),
            };
            let netns = self.node.netns();
            netns.ip(&format!("neighbour replace {base} lladdr {mac} dev {device} nud permanent\n"))?;
            netns.run(&format!("bridge fdb replace {mac} dev {device} dst {}", other.address(*family)))?;
            netns.ip(&format!("route replace {base}/{length} via {base} dev {device} onlink\n"))?;
        }
        Ok(())
    }

    /// flannel's chains, emptied and filled as its start does.
    pub fn make_rules(&self, rules: FlannelRules) -> Result<()> {
        let (all, own) = ("10.244.0.0/16", format!("10.244.{}.0/24", self.node.number()));
        match rules {
            FlannelRules::Iptables => {
                let masquerade = [
                    "-m mark --mark 0x4000/0x4000 MASQ -j RETURN".to_owned(),
                    format!("-s {own} -d {all} MASQ -j RETURN"),
                    format!("-s {all} -d {own} MASQ -j RETURN"),
                    format!("! -s {all} -d {own} MASQ -j RETURN"),
                    format!("-s {all} ! -d 224.0.0.0/4 MASQ -j MASQUERADE --random-fully"),
                    format!("! -s {all} -d {all} MASQ -j MASQUERADE --random-fully"),
                ];
                let forward = [format!("-s {all} FWD -j ACCEPT"), format!("-d {all} FWD -j ACCEPT")];
                let text = ["*nat", ":FLANNEL-POSTRTG - [0:0]"].map(String::from).into_iter();
                let text = text.chain(masquerade.iter().map(|rule| format!("-A FLANNEL-POSTRTG {rule}")));
                let text =
                    text.chain(["-A POSTROUTING MASQ -j FLANNEL-POSTRTG", "COMMIT", "*filter"].map(String::from));
                let text = text.chain([":FLANNEL-FWD - [0:0]".to_owned()]);
                let text = text.chain(forward.iter().map(|rule| format!("-A FLANNEL-FWD {rule}")));
                let text = text.chain(["-A FORWARD FWD -j FLANNEL-FWD", "COMMIT", ""].map(String::from));
                let text = text.collect::<Vec<_>>().join("\n");
                let text = text.replace("MASQ -j", "-m comment --comment \"flanneld masq\" -j");
                let text = text.replace("FWD -j", "-m comment --comment \"flanneld forward\" -j");
                self.load("iptables-nft-restore --noflush", &text)
            }
            FlannelRules::Nftables => self.load(
                "nft -f -",
                &format!(
                    "add table ip flannel-ipv4 {{ comment \"rules for flannel-ipv4\" ; }}\n\
                     add chain ip flannel-ipv4 postrtg {{ type nat hook postrouting priority srcnat ; }}\n\
                     flush chain ip flannel-ipv4 postrtg\n\
                     add rule ip flannel-ipv4 postrtg meta mark 0x4000 return\n\
                     add rule ip flannel-ipv4 postrtg ip saddr {own} ip daddr {all} return\n\
                     add rule ip flannel-ipv4 postrtg ip saddr {all} ip daddr {own} return\n\
                     add rule ip flannel-ipv4 postrtg ip saddr != {own} ip daddr {all} return\n\
                     add rule ip flannel-ipv4 postrtg ip saddr {all} ip daddr != 224.0.0.0/4 masquerade fully-random\n\
                     add chain ip flannel-ipv4 forward {{ type filter hook forward priority filter ; }}\n\
                     flush chain ip flannel-ipv4 forward\n\
                     add rule ip flannel-ipv4 forward ip saddr {all} accept\n\
                     add rule ip flannel-ipv4 forward ip daddr {all} accept\n\
                     add table ip6 flannel-ipv6\n"
                ),
            ),
        }
    }

    fn load(&self, program: &str, text: &str) -> Result<()> {
        let file = self.node.run_dir().join("flannel.rules");
        fs::write(&file, text)?;
        let script = format!("exec {program} < {}", file.display());
        netns::run(self.node.netns().command("sh").args(["-c", &script])).map(drop).with_context(|| text.to_owned())
    }
}

fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

/// Of the VXLAN device.
fn mac_of(node: &Node, family: Family) -> Result<String> {
    let shown = node.netns().run(&format!("ip -o link show dev {}", device(family)))?;
    let mac = shown.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next());
    mac.map(str::to_owned).context("a device without a link-layer address")
}

/// Locally administered, as flannel's are.
fn random_mac() -> String {
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        *byte = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0).to_be_bytes()[0];
    }
    bytes[0] = bytes[0] & 0xfc | 0x02;
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
