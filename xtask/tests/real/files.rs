//! What flannel's daemon writes and what ours writes in its place, octet for octet.

use std::{fs, os::unix::fs::PermissionsExt as _};

use xtask::lab::{Family, plain_vxlan};

use crate::site::{Daemons, builder};

/// subnet.env and its mode, of flannel's daemon and of ours after it.
fn written(prefix: &str, families: &[Family], network: &str, mtu: u32, datapath: &str) -> Option<[(String, u32); 2]> {
    let daemons = Daemons::given()?;
    let launches = vec![daemons.flannel()];
    let cluster = builder(prefix, launches).families(families).network(network).mtu(mtu).prepare().unwrap();
    let node = cluster.node(1);
    Some([daemons.flannel(), daemons.in_its_place(datapath)].map(|launch| {
        node.start_with(&launch).unwrap();
        node.wait_ready().unwrap();
        // flannel's daemon may fail at SIGTERM, or not end at all.
        node.kill().unwrap();
        let mode = fs::metadata(node.subnet_file()).unwrap().permissions().mode() & 0o777;
        (fs::read_to_string(node.subnet_file()).unwrap(), mode)
    }))
}

#[test]
fn subnet_env_is_the_same() {
    let v4 = [Family::V4];
    let vxlan = plain_vxlan(&v4);
    for (prefix, network, mtu, datapath) in [
        ("rwv4", vxlan.clone(), 1500, "ebpf"),
        ("rwv4x", vxlan.clone(), 1500, "vxlan"),
        ("rwv4u", vxlan.clone(), 1500, "userspace"),
        ("rwjum", vxlan.clone(), 9000, "ebpf"),
        ("rwsml", vxlan.clone(), 1400, "ebpf"),
        ("rwdir", vxlan.replace("\"vxlan\"", "\"vxlan\", \"DirectRouting\": true"), 1500, "ebpf"),
        ("rwhgw", vxlan.replace("\"vxlan\"", "\"host-gw\""), 1500, "auto"),
        ("rwudp", vxlan.replace("\"vxlan\"", "\"udp\""), 1500, "auto"),
        (
            "rwodd",
            r#"{"network": "10.240.0.1/12", "subnetLEN": 26, "backend": {"type": "vxlan"}}"#.to_owned(),
            1500,
            "auto",
        ),
    ] {
        let Some([flannels, ours]) = written(prefix, &v4, &network, mtu, datapath) else { return };
        println!("{prefix}: {flannels:?}");
        assert_eq!(flannels, ours, "{prefix}");
    }
}

/// The one difference is on purpose (docs/compatibility.md): the kernel gives the IPv6 device 70 less than the uplink.
#[test]
fn subnet_env_of_two_families_differs_in_the_mtu_alone() {
    let both = [Family::V4, Family::V6];
    for (prefix, datapath) in [("rwdu", "ebpf"), ("rwdux", "userspace")] {
        let Some([flannels, ours]) = written(prefix, &both, &plain_vxlan(&both), 1500, datapath) else { return };
        println!("{flannels:?}");
        assert!(flannels.0.contains("FLANNEL_MTU=1450\n"), "{}", flannels.0);
        assert_eq!((flannels.0.replace("MTU=1450", "MTU=1430"), flannels.1), ours, "{prefix}");
    }
}
