//! Pods talk, whatever happens to the API server.

use xtask::lab::{Family, Ping, skip_unless, wait};

use crate::site::{Site, TOOLS};

#[test]
fn two_nodes_find_each_other_through_the_api_server() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("fkmesh", 2, &[Family::V4, Family::V6]);
    for node in site.cluster.nodes() {
        let env = node.subnet_env().unwrap();
        assert_eq!(env.get("NETWORK"), Some("10.244.0.0/16"));
        assert_eq!(env.get("SUBNET"), Some(format!("10.244.{}.1/24", node.number()).as_str()));
        let status = node.status().unwrap();
        assert_eq!((&status["source"]["kind"], &status["peers"]["total"]), (&"kube".into(), &1.into()), "{status:#}");
        let name = site.name(node.number());
        let address = node.address(Family::V4).to_string();
        assert_eq!(site.api.annotation(&name, "public-ip"), Some(address));
        let data = site.api.annotation(&name, "backend-data").unwrap();
        let mac = node.netns().run("ip -o link show dev flannel.1").unwrap();
        let mac = mac.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
        assert_eq!(data, format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
        wait::until("the condition", wait::LONG, || {
            let told = site.api.node(&name)?["status"]["conditions"].to_string();
            told.contains("FlannelIsUp").then_some(())
        })
        .unwrap();
    }
    site.assert_discreet();
}

#[test]
fn an_outage_of_the_api_server_loses_no_packet() {
    if skip_unless(&TOOLS) {
        return;
    }
    let site = Site::start("fkgone", 2, &[Family::V4]);
    site.api.add_peer("ghost", "10.244.66.0/24", "192.168.66.66", "46:82:fb:f7:52:66");
    site.wait_peers(1, 2);
    let pings = [(1, 2), (2, 1)].map(|(from, to)| site.cluster.ping(from, to, Family::V4).unwrap());
    site.api.stop();
    let node = site.cluster.node(1);
    wait::until("the outage to be told", wait::LONG, || node.log().contains("Connection refused").then_some(()))
        .unwrap();
    pings[0].more(200).unwrap();
    // Even who starts meanwhile goes on with what is there.
    node.kill().unwrap();
    node.start().unwrap();
    wait::until("the outage to be told again", wait::LONG, || {
        (node.log().matches("Connection refused").count() >= 2).then_some(())
    })
    .unwrap();
    pings[0].more(200).unwrap();
    site.api.remove_node("ghost");
    site.api.compact();
    site.api.again().unwrap();
    for number in [1, 2] {
        site.wait_peers(number, 1);
        site.cluster.node(number).wait_converged().unwrap();
        let routes = site.cluster.node(number).netns().run("ip route").unwrap();
        assert!(!routes.contains("10.244.66.0"), "deleted while we were down: {routes}");
    }
    pings[0].more(200).unwrap();
    for report in pings.map(Ping::stop) {
        println!("{report}");
        report.assert_nothing_lost();
    }
    site.assert_discreet();
}
