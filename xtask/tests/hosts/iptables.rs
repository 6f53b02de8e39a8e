//! Only iptables: masquerading and forwarding are there, what is not is said, and nothing stays behind.

use std::{fs, net::IpAddr};

use xtask::lab::{Cluster, Dump, Family, Launch, Node, OUTSIDE_V4, OUTSIDE_V6, Ping, run, skip_unless};

use super::{TOOLS, same_again, text, verb, wait_converged};

/// A mount namespace of its own, where these programs are no programs.
fn without(programs: &[&str]) -> Launch {
    let hide = "for program in $0; do mount --bind /dev/null \"$(readlink -f \"$(command -v $program)\")\"; done";
    wrapped(&format!("{hide}; exec \"$@\""), &programs.join(" "))
}

/// `nft` is there and the kernel refuses what it asks for.
fn with_refusing_nft(dir: &std::path::Path) -> Launch {
    let fake = dir.join("nft");
    fs::write(&fake, "#!/bin/sh\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    wrapped("mount --bind $0 \"$(readlink -f \"$(command -v nft)\")\"; exec \"$@\"", &fake.display().to_string())
}

fn wrapped(script: &str, argument: &str) -> Launch {
    let wrapper = ["unshare", "--mount", "sh", "-ec", script, argument].map(String::from).to_vec();
    Launch { wrapper, ..Launch::default() }
}

/// Pods reach the outside only masqueraded.
#[track_caller]
fn assert_masqueraded(node: &Node) {
    for outside in [IpAddr::from(OUTSIDE_V4), OUTSIDE_V6.into()] {
        Ping::until_answered(node.pod().netns(), outside).unwrap_or_else(|error| panic!("{error}\n{}", node.log()));
    }
}

/// What flannel left for a subnet that this node had once, and a FORWARD chain that drops.
fn leave_rules_of_flannel(node: &Node, variant: &str) {
    let rules = |all: &str, old: &str| {
        format!(
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
             -A FLANNEL-POSTRTG -s {old} -d {all} -m comment --comment \"flanneld masq\" -j RETURN\n\
             -A FLANNEL-POSTRTG -s {all} -m comment --comment \"flanneld masq\" -j MASQUERADE\n\
             -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
             -A POSTROUTING -s 198.51.100.0/24 -j RETURN\nCOMMIT\n\
             *filter\n:FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n\
             -A FLANNEL-FWD -s {old} -m comment --comment \"flanneld forward\" -j ACCEPT\n\
             -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\nCOMMIT\n"
        )
    };
    let v6 = rules("fd10:244::/48", "fd10:244:0:dead::/64").replace("198.51.100.0/24", "2001:db8:66::/64");
    for (program, rules) in [("iptables", rules("10.244.0.0/16", "10.244.99.0/24")), ("ip6tables", v6)] {
        let file = node.state_dir().with_extension("rules");
        fs::write(&file, rules).unwrap();
        let script = format!("exec {program}-{variant}-restore --noflush < {}", file.display());
        run(node.netns().command("sh").args(["-c", &script])).unwrap();
    }
}

fn saved(node: &Node, variant: &str) -> String {
    ["iptables", "ip6tables"].map(|program| node.netns().run(&format!("{program}-{variant}-save")).unwrap()).concat()
}

/// The whole life on such a host: `variant` is what does the work there.
fn lives(prefix: &str, hidden: &[&str], variant: &str) {
    let launch = without(hidden);
    let cluster = Cluster::builder(prefix).nodes(2).dual_stack().launches(vec![launch.clone()]).prepare().unwrap();
    let node = cluster.node(1);
    leave_rules_of_flannel(node, variant);
    cluster.bring_up().unwrap();
    cluster.assert_whole();
    assert_masqueraded(node);
    let filter = wait_converged(node)["filter"].clone();
    assert_eq!(filter["flavour"], "iptables", "{filter}");
    assert!(filter["why"].as_str().unwrap().contains("there is no nft program"), "{filter}");
    let lack = "tunnel packets from strangers are not dropped: that takes nftables";
    assert_eq!(filter["limits"], serde_json::json!([lack]), "said, and nothing else is wrong");
    let etcd = cluster.store().endpoint();
    let check = text(&verb(node, &launch, &["check", "--iface=eth0", "--ip-masq", "--etcd-endpoints", &etcd]));
    assert!(check.contains("iptables") && check.contains("tunnel packets from strangers are not dropped"), "{check}");

    // Flannel's chains are ours now, a stranger's rule is not.
    let rules = saved(node, variant);
    assert!(!rules.contains("10.244.99.0") && !rules.contains("fd10:244:0:dead::"), "{rules}");
    assert_eq!(rules.matches("-j FLANNEL-POSTRTG").count(), 2, "{rules}");
    assert_eq!(rules.matches("-j FLANNEL-FWD").count(), 2, "{rules}");
    assert!(rules.contains("-s 198.51.100.0/24 -j RETURN"), "{rules}");

    // Whatever is flushed comes back; what is established is not disturbed by a restart.
    let before = Dump::of(node.netns()).unwrap();
    for flush in ["-t nat -F POSTROUTING", "-t nat -F FLANNEL-POSTRTG", "-t filter -F"] {
        for program in ["iptables", "ip6tables"] {
            node.netns().run(&format!("{program}-{variant} {flush}")).unwrap();
        }
        same_again(node, &before);
    }
    assert_masqueraded(node);
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    node.restart().unwrap();
    wait_converged(node);
    ping.more(100).unwrap();
    ping.stop().assert_nothing_lost();
    same_again(node, &before);

    node.stop().unwrap();
    let cleanup = verb(node, &launch, &["cleanup"]);
    assert!(cleanup.status.success(), "{}", text(&cleanup));
    let left = Dump::of(node.netns()).unwrap();
    assert!(left.is_empty(), "{left}\n{}", text(&cleanup));
    let rules = saved(node, variant);
    assert!(!rules.contains("FLANNEL") && !rules.contains("flanneld"), "{rules}");
    // The old rule was flushed by the test itself; policies are the host's.
    assert!(rules.contains(":FORWARD DROP"), "{rules}");
}

#[test]
fn a_host_without_nft_whose_iptables_are_the_nft_kind() {
    if skip_unless(&[&TOOLS[..], &["iptables-nft", "ip6tables-nft"]].concat()) {
        return;
    }
    lives("fhipn", &["nft"], "nft");
}

#[test]
fn a_host_without_nft_whose_iptables_are_the_legacy_kind() {
    if skip_unless(&[&TOOLS[..], &["iptables-legacy", "ip6tables-legacy"]].concat()) {
        return;
    }
    lives("fhipl", &["nft", "xtables-nft-multi"], "legacy");
}

#[test]
fn nft_stops_working_and_works_again_under_a_node_in_service() {
    if skip_unless(&[&TOOLS[..], &["iptables-nft"]].concat()) {
        return;
    }
    let cluster = Cluster::builder("fhnft").nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    wait_converged(node);
    let before = Dump::of(node.netns()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    node.stop().unwrap();
    node.start_with(&with_refusing_nft(dir.path())).unwrap();
    node.wait_ready().unwrap();
    let filter = wait_converged(node)["filter"].clone();
    assert_eq!(filter["flavour"], "iptables", "{filter}");
    assert!(filter["why"].as_str().unwrap().contains("Operation not supported"), "{filter}");
    assert_masqueraded(node);
    let tables = node.netns().run("nft list tables").unwrap();
    assert!(!tables.contains("flannel-ctl"), "one flavour at a time: {tables}");
    node.restart().unwrap();
    same_again(node, &before);
    assert_masqueraded(node);
    ping.more(50).unwrap();
    ping.stop().assert_nothing_lost();
}
