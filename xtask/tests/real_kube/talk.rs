//! Pods talk, whatever happens to the API server.

use xtask::lab::{Family, Ping, wait};

use crate::site::{Site, skip};

#[test]
fn nodes_find_each_other_with_the_rights_of_the_manifest_alone() {
    if skip() {
        return;
    }
    let site = Site::start("rkmesh", 3, &[Family::V4, Family::V6]);
    for node in site.cluster.nodes() {
        let name = site.name(node.number());
        let there = site.server.get(&["node", &name]).unwrap();
        let cidrs = site.cidrs(&name);
        assert_eq!(cidrs.len(), 2, "{there:#}");
        let gateway = cidrs[0].replace(".0/24", ".1/24");
        let env = node.subnet_env().unwrap();
        assert_eq!(env.get("NETWORK"), Some("10.244.0.0/16"));
        assert_eq!(env.get("SUBNET"), Some(gateway.as_str()));
        let said = |what: &str| there["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{what}")].clone();
        for (family, device, ip, data) in [
            (Family::V4, "flannel.1", "public-ip", "backend-data"),
            (Family::V6, "flannel-v6.1", "public-ipv6", "backend-v6-data"),
        ] {
            assert_eq!(said(ip), node.address(family).to_string());
            let link = node.netns().run(&format!("ip -o link show dev {device}")).unwrap();
            let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
            let data = said(data);
            assert!(data.as_str().unwrap().contains(&format!(r#""VtepMAC":"{mac}""#)), "{data}");
        }
        assert_eq!(said("kube-subnet-manager"), "true");
        wait::until("the condition", wait::LONG, || {
            let node = site.server.get(&["node", &name]).ok()?;
            let conditions = node["status"]["conditions"].as_array()?.clone();
            let ours = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable")?;
            (ours["status"] == "False" && ours["reason"] == "FlannelIsUp").then_some(())
        })
        .unwrap();
        let status = node.status().unwrap();
        assert_eq!((&status["source"]["kind"], &status["peers"]["total"]), (&"kube".into(), &2.into()), "{status:#}");
        let log = node.log();
        assert!(!log.contains("orbidden") && !log.contains(" 403 "), "{log}");
    }
}

#[test]
fn an_api_server_that_is_killed_stopped_and_forgets_loses_no_packet() {
    if skip() {
        return;
    }
    let site = Site::start("rkgone", 2, &[Family::V4]);
    let pings = [(1, 2), (2, 1)].map(|(from, to)| site.cluster.ping(from, to, Family::V4).unwrap());
    let routes = |number: usize| site.cluster.node(number).netns().run("ip route").unwrap();
    for round in 0..3 {
        site.ghost("ghost", "10.244.66.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
        site.wait_peers(1, 2);
        site.wait_peers(2, 2);
        if round == 0 { site.server.stop() } else { site.server.kill() }.unwrap();
        site.wait_trouble(1, "refused");
        site.wait_trouble(2, "refused");
        let node = site.cluster.node(1);
        if round == 2 {
            // Who starts meanwhile goes on with what is there.
            node.kill().unwrap();
            node.start().unwrap();
        }
        pings[0].more(200).unwrap();
        site.server.again().unwrap();
        site.server.kubectl(&["delete", "node", "ghost", "--wait=false"]).unwrap();
        if round > 0 {
            // Neither etcd nor the server has a history that reaches back to before the outage.
            site.server.kill().unwrap();
            site.server.compact().unwrap();
            site.server.again().unwrap();
        }
        for number in [1, 2] {
            site.wait_peers(number, 1);
            site.cluster.node(number).wait_converged().unwrap();
            assert!(!routes(number).contains("10.244.66.0"), "deleted while we were down: {}", routes(number));
        }
        pings[0].more(200).unwrap();
    }
    for report in pings.map(Ping::stop) {
        println!("{report}");
        report.assert_nothing_lost();
    }
    println!("{}", site.cluster.node(2).log());
}
