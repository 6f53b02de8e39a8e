//! Backend udp: flannel's loop in C and our engine.

use xtask::lab::{Capture, Cluster, Family, Launch, Ping, run, transfer, wait};

use crate::site::{Daemons, builder, bulk_everywhere, command, leases, start};

const NETWORK: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}"#;
const OCTETS: usize = 8 << 20;

fn pings_of_all_sizes(cluster: &Cluster) {
    for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 4), (4, 2)] {
        let address = cluster.node(to).pod().address(Family::V4).unwrap();
        let pod = cluster.node(from).pod().netns();
        // 1472 is the MTU; up to there nothing is cut, and beyond it what is cut arrives.
        for (size, whole) in
            [(0, true), (1, true), (56, true), (1443, true), (1444, true), (1445, false), (4000, false)]
        {
            let mark = if whole { "-M do" } else { "-M dont" };
            pod.run(&format!("ping -c 3 -i 0.01 -W 5 {mark} -s {size} {address}"))
                .unwrap_or_else(|error| panic!("{from} to {to}, {size} octets: {error}"));
        }
    }
}

#[test]
fn a_network_of_both() {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), Launch::default(), daemons.flannel(), Launch::default()];
    let cluster = builder("rudp", launches).network(NETWORK).prepare().unwrap();
    for number in [1, 2, 4, 3] {
        start(&cluster, number);
    }
    cluster.assert_whole();
    println!("{}", leases(&cluster));
    let capture = Capture::start(cluster.underlay().netns(), "br0", "udp port 8285").unwrap();
    pings_of_all_sizes(&cluster);
    let packets = capture.stop().unwrap();
    assert_eq!(packets.complaints().unwrap(), Vec::<String>::new());
    bulk_everywhere(&cluster);
    for number in [2, 4] {
        let ping = cluster.ping(1, number, Family::V4).unwrap();
        ping.more(50).unwrap();
        cluster.node(number).restart().unwrap();
        ping.more(300).unwrap();
        println!("ours restarted: {}", ping.stop());
    }
    for number in [1, 3] {
        let ping = cluster.ping(2, number, Family::V4).unwrap();
        ping.more(50).unwrap();
        cluster.node(number).restart().unwrap();
        ping.more(300).unwrap();
        println!("flannel's restarted: {}", ping.stop());
    }
    cluster.assert_whole();
    bulk_everywhere(&cluster);
}

/// flannel's loop lives in its daemon, so some packets are lost; how the node comes through is what counts. On the way back
/// cleanup comes first: flannel's daemon would find our device and route in its way.
#[test]
fn a_node_changes_hands_and_back() {
    let Some(daemons) = Daemons::given() else { return };
    let launches = vec![daemons.flannel(), daemons.flannel()];
    let cluster = builder("rudpt", launches).network(NETWORK).prepare().unwrap();
    start(&cluster, 1);
    start(&cluster, 2);
    cluster.assert_whole();
    let node = cluster.node(1);
    let pods = |from: usize, to: usize| {
        let address = cluster.node(to).pod().address(Family::V4).unwrap();
        transfer(cluster.node(from).pod().netns(), cluster.node(to).pod().netns(), address, OCTETS).unwrap();
    };
    for killed in [false, true] {
        let end = || {
            if killed {
                node.kill().unwrap();
            } else {
                node.stop().unwrap();
            }
        };
        let ping = cluster.ping(2, 1, Family::V4).unwrap();
        end();
        node.start_with(&daemons.in_its_place("auto")).unwrap();
        node.wait_ready().unwrap();
        ping.more(300).unwrap();
        report("taken over", ping);
        cluster.assert_whole();
        pods(1, 2);
        pods(2, 1);

        let ping = cluster.ping(2, 1, Family::V4).unwrap();
        end();
        let mut cleanup = command(node, &["cleanup"]);
        cleanup.arg("--subnet-file").arg(node.subnet_file()).arg("--bpf-dir").arg(node.bpf_dir());
        println!("{}", run(cleanup.arg("--state-dir").arg(node.run_dir())).unwrap());
        node.start_with(&daemons.flannel()).unwrap();
        wait::until("flannel's device", wait::LONG, || {
            node.netns().run("ip route show 10.244.0.0/16 dev flannel0").ok().filter(|route| !route.is_empty())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", node.netns().run("ip route").unwrap()));
        ping.more(300).unwrap();
        report("given back", ping);
        cluster.assert_whole();
        pods(1, 2);
        pods(2, 1);
    }
}

fn report(what: &str, ping: Ping) {
    println!("{what}: {}", ping.stop());
}
