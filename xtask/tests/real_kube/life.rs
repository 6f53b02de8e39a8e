//! Nodes that are deleted and come anew; tokens that end.

use std::time::Duration;

use xtask::lab::{Family, wait};

use crate::site::{Site, skip};

/// The daemon asks for watches of 290 s.
const A_WATCH: Duration = Duration::from_mins(8);

#[test]
fn a_node_registered_anew_with_another_range_moves_there() {
    if skip() {
        return;
    }
    let site = Site::start("rkanew", 2, &[Family::V4]);
    let (name, node) = (site.name(2), site.cluster.node(2));
    let before = site.cidrs(&name);
    site.server.kubectl(&["delete", "node", &name]).unwrap();
    wait::until("the loss to be told", wait::LONG, || site.trouble(2).contains("is not there any more").then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", node.log()));
    site.wait_peers(1, 0);
    // Whoever comes first takes the free range.
    site.server.register("other", &[before[0].as_str()]).unwrap();
    site.server.register(&name, &[]).unwrap();
    let after = site.cidrs(&name);
    assert_ne!(before, after);
    let gateway = after[0].replace(".0/24", ".1/24");
    wait::until("subnet.env to say so", wait::LONG, || {
        (node.subnet_env().ok()?.get("SUBNET") == Some(gateway.as_str())).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", node.log()));
    node.wire_pod().unwrap();
    site.wait_peers(1, 1);
    site.cluster.assert_whole();
    wait::until("the condition", wait::LONG, || {
        site.server.get(&["node", &name]).ok()?["status"].to_string().contains("FlannelIsUp").then_some(())
    })
    .unwrap();
}

#[test]
fn a_token_that_ended_is_told_and_its_successor_read() {
    if skip() {
        return;
    }
    let site = Site::start("rktoken", 2, &[Family::V4]);
    site.server.kubectl(&["create", "secret", "generic", "life", "-n", "flannel-ctl"]).unwrap();
    let first = site.server.token(Some("life")).unwrap();
    site.mount(&first).unwrap();
    let node = site.cluster.node(1);
    node.restart().unwrap();
    site.cluster.node(1).wait_converged().unwrap();
    // A token ends with what it is bound to; the server remembers for ten seconds that it was good.
    site.server.kubectl(&["delete", "secret", "life", "-n", "flannel-ctl"]).unwrap();
    wait::until("the token to end", wait::LONG, || {
        let header = format!("Authorization: Bearer {first}");
        (site.server.raw("", "GET", "/api/v1/nodes?limit=1", &["-H", &header]).ok()?.0 == 401).then_some(())
    })
    .unwrap();
    site.server.kill().unwrap();
    site.server.again().unwrap();
    site.wait_trouble(1, "401");
    let second = site.server.token(None).unwrap();
    site.mount(&second).unwrap();
    site.cluster.node(1).wait_converged().unwrap();
    site.ghost("ghost", "10.244.66.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
    site.wait_peers(1, 2);
    for token in [first, second] {
        assert!(!node.log().contains(&token) && !node.status().unwrap().to_string().contains(&token));
    }
}

#[test]
fn a_watch_that_the_server_ends_goes_on_where_it_ended() {
    if skip() {
        return;
    }
    let site = Site::start("rkwatch", 2, &[Family::V4]);
    let count = |what: &str| site.server.asked().iter().filter(|asked| *asked == what).count();
    let lists = count("list nodes ResponseComplete");
    wait::until("both watches to end", A_WATCH, || (count("watch nodes ResponseComplete") >= 2).then_some(())).unwrap();
    site.ghost("ghost", "10.244.66.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
    for number in [1, 2] {
        site.wait_peers(number, 2);
        let log = site.cluster.node(number).log();
        assert!(!log.contains("WARN") && !log.contains("no connection"), "{log}");
    }
    assert_eq!(count("list nodes ResponseComplete"), lists, "{:?}", site.server.asked());
}

#[test]
fn an_etcd_restored_from_a_backup_is_believed() {
    if skip() {
        return;
    }
    let site = Site::start("rkback", 2, &[Family::V4]);
    let ping = site.cluster.ping(1, 2, Family::V4).unwrap();
    let backup = site.cluster.dir().join("backup.db").display().to_string();
    site.server.etcd.ctl().run(&["snapshot", "save", &backup]).unwrap();
    for i in 1..10 {
        site.ghost(&format!("late{i}"), &format!("10.244.8{i}.0/24"), &format!("192.168.66.{i}"), &mac(i));
    }
    site.wait_peers(1, 10);
    site.server.kill().unwrap();
    site.wait_trouble(1, "refused");
    site.server.restore(&backup).unwrap();
    site.server.again().unwrap();
    site.ghost("new", "10.244.99.0/24", "192.168.66.99", &mac(99));
    for number in [1, 2] {
        site.wait_peers(number, 2);
        site.cluster.node(number).wait_converged().unwrap();
        assert!(site.cluster.node(number).ctl(&["peers"]).unwrap().contains("10.244.99.0"));
    }
    ping.more(200).unwrap();
    ping.stop().assert_nothing_lost();
}

fn mac(last: usize) -> String {
    format!("46:82:fb:f7:52:{last:02}")
}
