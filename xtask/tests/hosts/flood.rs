//! More notices than the kernel keeps for us.

use nix::sys::signal::Signal;
use xtask::lab::{Cluster, Dump, Family, Node, skip_unless, stranger, wait};

use super::{TOOLS, same_again, wait_converged};

/// Ten thousand changes of an interface that is none of ours.
fn ten_thousand_events(node: &Node) {
    for _ in 0..10 {
        node.netns().ip(&"link set dum0 mtu 1400\nlink set dum0 mtu 1500\n".repeat(500)).unwrap();
    }
}

/// Notices that the kernel threw away, over all netlink sockets of the node.
fn dropped(node: &Node) -> u64 {
    let table = node.netns().run("cat /proc/net/netlink").unwrap();
    let drops = |line: &str| line.split_whitespace().nth(8).and_then(|count| count.parse::<u64>().ok());
    table.lines().skip(1).filter_map(drops).sum()
}

#[test]
fn what_was_missed_in_a_flood_of_events_is_made_up_for() {
    if skip_unless(&[&TOOLS[..], &["etcdctl"]].concat()) {
        return;
    }
    let cluster = Cluster::builder("fhflood").nodes(2).dual_stack().start().unwrap();
    cluster.assert_whole();
    let node = cluster.node(1);
    node.netns().ip("link add dum0 type bridge\nlink set dum0 up\n").unwrap();
    wait_converged(node);
    let before = Dump::of(node.netns()).unwrap();

    // Awake: what is broken in the midst of it is mended, and the packets of others do not notice.
    let ping = cluster.ping(1, 2, Family::V4).unwrap();
    ten_thousand_events(node);
    node.netns().run("ip -6 route flush proto 102").unwrap();
    ten_thousand_events(node);
    same_again(node, &before);
    ping.stop().assert_nothing_lost();

    // Standing still, so that the socket overflows; meanwhile both sides change.
    let base = (1..255).map(|third| format!("10.244.{third}.0")).find(|base| {
        cluster
            .nodes()
            .iter()
            .all(|node| !node.subnet_env().unwrap().subnet(Family::V4).unwrap().starts_with(&base[..base.len() - 1]))
    });
    let base = base.unwrap();
    let key = format!("/coreos.com/network/subnets/{base}-24&fd10:244:0:fff0::-64");
    let value = stranger(9).replace(
        r#""PublicIPv6":null"#,
        r#""PublicIPv6":"fd77::900","BackendV6Data":{"VNI":1,"VtepMAC":"06:00:00:00:00:99"}"#,
    );
    node.signal(Signal::SIGSTOP).unwrap();
    // The buffer is large: so many events that it is too small, however much it holds here.
    let rounds = (1..=40).find(|_| {
        ten_thousand_events(node);
        dropped(node) > 0
    });
    let rounds = rounds.expect("400,000 events that stand still in a socket overflow it");
    println!("notices were dropped after {rounds}0,000 events");
    node.netns()
        .ip("nexthop flush proto 102\nlink set flannel.1 mtu 1300\nneighbour flush dev flannel-v6.1 nud all\n")
        .unwrap();
    node.netns().run("nft delete table inet flannel-ctl").unwrap();
    cluster.etcdctl(&["put", &key, &value]).unwrap();
    node.signal(Signal::SIGCONT).unwrap();
    wait::until("the new peer to be there", wait::LONG, || {
        node.netns().run("ip -4 route show proto 102").ok()?.contains(&format!("{base}/24")).then_some(())
    })
    .unwrap();
    cluster.assert_whole();
    cluster.etcdctl(&["del", &key]).unwrap();
    same_again(node, &before);
    wait_converged(node);
}
