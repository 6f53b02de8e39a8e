//! Programs and traffic filters of others on the hooks that ours are on: they see what they would see without us, and
//! what they drop is dropped.

use std::time::Duration;

use flannel_common::Counter;
use xtask::lab::{Cluster, Family, Launch, wait};

use crate::{
    site::{Site, skipped},
    stranger::{Hook, Order, Stranger, Verdict},
    talk::Talk,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes whose first has something on its uplink before our daemon starts.
fn site(prefix: &str, before: impl FnOnce(&Cluster)) -> Site {
    // Far longer than these tests.
    let args = ["--datapath", "ebpf", "--flow-validity", "600"].map(str::to_owned).to_vec();
    let builder = Cluster::builder(prefix).nodes(2).launches(vec![Launch { args, ..Launch::default() }]);
    let cluster = builder.prepare().unwrap();
    before(&cluster);
    cluster.bring_up().unwrap();
    let mesh = cluster.wait_mesh(PATIENCE).unwrap();
    assert!(mesh.whole(), "{mesh}");
    Site { cluster }
}

#[test]
fn programs_of_others_run_before_ours_whenever_they_were_attached() {
    if skipped(&[]) {
        return;
    }
    let mut early = Vec::new();
    let site = site("fptcx", |cluster| {
        let uplink = cluster.node(1).netns();
        early.extend(
            [Hook::Ingress, Hook::Egress]
                .map(|hook| Stranger::attach(uplink, "eth0", hook, Order::Unasked, Verdict::Next)),
        );
    });
    let answering = site.answering(2, Family::V4, 7000);
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    for stranger in &early {
        sees_all(stranger, &talk);
    }

    let node = site.netns(1);
    let late = [("eth0", Hook::Ingress), ("eth0", Hook::Egress), ("veth0", Hook::Ingress)];
    let late = late.map(|(interface, hook)| Stranger::attach(node, interface, hook, Order::Unasked, Verdict::Next));
    for stranger in late.iter().chain(&early) {
        sees_all(stranger, &talk);
    }
    site.until_fast(&talk, &[1, 2]);
    drop(late);
    drop(early);
    site.until_fast(&talk, &[1, 2]);
    // One that has the last word leaves us nothing to do.
    let end = Stranger::attach(node, "veth0", Hook::Ingress, Order::First, Verdict::Pass);
    let counts = site.during(1, || talk.more(300));
    assert!(counts.get(Counter::EgressFast) < 100, "{}", counts.shown());
    drop(end);
    site.until_fast(&talk, &[1, 2]);
    talk.whole();

    // Ours could learn from what is dropped behind it, and then deliver without asking.
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    let drops = Stranger::attach(node, "veth0", Hook::Egress, Order::Unasked, Verdict::Drop);
    until_unanswered(&talk);
    drop(drops);
    talk.more(100);
    site.until_fast(&talk, &[1, 2]);
    site.alive();
}

/// Every packet of the conversation comes by, the fast ones too; within the time between two looks at who is there.
fn sees_all(stranger: &Stranger, talk: &Talk) {
    wait::until("the program to see all that goes by", PATIENCE, || {
        let (seen, sent) = (stranger.seen(), talk.answered());
        talk.more(200);
        (stranger.seen() - seen + 20 >= talk.answered() - sent).then_some(())
    })
    .unwrap();
}

/// Waits until no answer comes any more to what goes on being asked; and after that, none does.
fn until_unanswered(talk: &Talk) {
    let silence = || {
        let answered = talk.answered();
        talk.more_sent(300);
        talk.answered() == answered
    };
    wait::until("what is dropped to arrive no more", PATIENCE, || silence().then_some(())).unwrap();
    assert!(silence(), "what somebody drops has come through");
}

#[test]
fn traffic_filters_of_others_see_what_comes_in() {
    if skipped(&["tc"]) {
        return;
    }
    let site = site("fptc", |_| {});
    let answering = site.answering(2, Family::V4, 7000);
    let talk = Talk::udp(site.pod(1), answering.address());
    site.until_fast(&talk, &[1, 2]);
    let node = site.netns(1);
    node.ip("link add mirror0 type veth peer name mirror1\nlink set mirror0 up\nlink set mirror1 up\n").unwrap();
    for interface in ["eth0", "veth0"] {
        node.run(&format!("tc qdisc add dev {interface} clsact")).unwrap();
        site.until_fast(&talk, &[1, 2]);
        let mirror = "protocol ip u32 match u32 0 0 action mirred egress mirror dev mirror0";
        node.run(&format!("tc filter add dev {interface} ingress {mirror}")).unwrap();
        let mut last = String::new();
        wait::until("the filter to see all that comes in", PATIENCE, || {
            let (seen, told) = (node.packets("mirror0").unwrap().1, talk.answered());
            last = site.during(1, || talk.more(200)).shown();
            (node.packets("mirror0").unwrap().1 - seen + 20 >= talk.answered() - told).then_some(())
        })
        .unwrap_or_else(|error| panic!("{interface}: {error}: {last}"));
        let place = if interface == "eth0" { "/datapath/why" } else { "/fast_path/spared/0/why" };
        wait::until("status to say why", PATIENCE, || {
            let status = site.node(1).status().unwrap();
            status.pointer(place)?.as_str()?.contains("filters what comes in").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:#}", site.node(1).status().unwrap()));
        site.node(1).restart().unwrap();
        let counts = site.during(1, || talk.more(200));
        assert_eq!(counts.get(Counter::EgressFast), 0, "{}", counts.shown());
        let left = node.run(&format!("tc filter show dev {interface} ingress")).unwrap();
        assert!(left.contains("mirred"), "left alone: {left}");
        node.run(&format!("tc qdisc del dev {interface} clsact")).unwrap();
        site.until_fast(&talk, &[1, 2]);
    }
    // What leaves passes the filters all the same.
    node.run("tc qdisc add dev eth0 clsact").unwrap();
    let mirror = "protocol ip u32 match u32 0 0 action mirred egress mirror dev mirror0";
    node.run(&format!("tc filter add dev eth0 egress {mirror}")).unwrap();
    let (seen, told) = (node.packets("mirror0").unwrap().1, talk.answered());
    site.until_fast(&talk, &[1, 2]);
    assert!(node.packets("mirror0").unwrap().1 - seen + 20 >= talk.answered() - told);
    site.alive();
}
