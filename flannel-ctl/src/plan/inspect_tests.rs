use super::*;
use crate::plan::fixtures::{mac, record, rules, with_value};

fn refused(key: &str, value: &str) -> Refusal {
    inspect(&rules(false), &with_value(key, value, 9)).expect_err(key)
}

/// Our own lease form with one field replaced.
fn lease(public: &str, data: &str) -> String {
    format!(r#"{{"PublicIP":{public},"PublicIPv6":null,"BackendType":"vxlan","BackendData":{data}}}"#)
}

const GOOD: &str = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:63"}"#;

#[test]
fn a_lease_of_flannels_becomes_a_peer() {
    let record = with_value("10.244.99.0-24", &lease(r#""10.200.99.2""#, GOOD), 1);
    let Ok(Inspected::Peer(peer)) = inspect(&rules(false), &record) else { panic!("refused") };
    assert_eq!(peer.vtep_v4, Some(mac(0x63)));
    assert_eq!(peer.public_v4, Some([10, 200, 99, 2].into()));
    let old = with_value("10.244.99.0-24", &lease(r#""10.200.99.2""#, r#"{"VtepMAC":"02:00:00:00:00:63"}"#), 1);
    assert!(matches!(inspect(&rules(false), &old), Ok(Inspected::Peer(_))), "older versions leave VNI out");
}

#[test]
fn a_dual_stack_lease_gives_both_families() {
    let Ok(Inspected::Peer(peer)) = inspect(&rules(true), &record(5, true)) else { panic!("refused") };
    assert_eq!((peer.vtep_v4, peer.vtep_v6), (Some(mac(5)), Some(mac(5))));
    assert_eq!(peer.public_v6, Some("fd00::5".parse().unwrap()));
}

#[test]
fn keys_outside_of_the_rules_are_refused() {
    let value = lease(r#""10.200.99.2""#, GOOD);
    let refused = |key| refused(key, &value);
    assert!(matches!(refused("0.0.0.0-0"), Refusal::OutsideNetwork(..)));
    assert!(matches!(refused("10.244.0.0-16"), Refusal::Length(..)));
    assert!(matches!(refused("192.168.77.0-24"), Refusal::OutsideNetwork(..)));
    assert!(matches!(refused("10.200.1.0-24"), Refusal::OutsideNetwork(..)));
    assert!(matches!(refused("127.0.0.0-8"), Refusal::OutsideNetwork(..)));
    assert!(matches!(refused("10.244.99.0-25"), Refusal::Length(..)));
    assert!(matches!(refused("10.244.99.77-24"), Refusal::Key(KeyError::HostBits(_))));
    assert!(matches!(refused("10.244.99.0-24-24"), Refusal::Key(KeyError::Form)));
    assert!(matches!(refused("fc00::-64"), Refusal::NoFamily));
    let mut inside = rules(false);
    inside.local_nets.push(("10.244.99.0/24".parse().unwrap(), "eth1".into()));
    let record = with_value("10.244.99.0-24", &value, 1);
    assert!(matches!(inspect(&inside, &record), Err(Refusal::OverlapsLocal(..))));
}

#[test]
fn a_dual_key_with_a_bad_half_is_refused_whole() {
    let mut bad = record(5, true);
    bad.key = "10.244.5.0-24&fd99::-64".into();
    assert!(matches!(inspect(&rules(true), &bad), Err(Refusal::OutsideNetwork(..))));
}

#[test]
fn values_that_are_no_leases_are_refused() {
    for value in ["null", "{{{{", "[1,2]", "\"x\"", "7", "{\"PublicIP\":NaN}", "{\"PublicIP\":1e400}", "{}", "\u{0}"] {
        assert!(matches!(refused("10.244.99.0-24", value), Refusal::Json(_)), "{value}");
    }
    assert_eq!(refused("10.244.99.0-24", ""), Refusal::Size);
    assert_eq!(refused("10.244.99.0-24", &"[".repeat(2000)), Refusal::Depth);
    assert_eq!(refused("10.244.99.0-24", &"[".repeat(20_000)), Refusal::Size);
    let twice = r#"{"PublicIP":"10.200.99.2","PublicIP":"10.200.99.3","BackendType":"vxlan"}"#;
    assert!(matches!(refused("10.244.99.0-24", twice), Refusal::Json(_)));
    let wordy =
        lease(r#""10.200.99.2""#, &format!(r#"{{"VtepMAC":"02:00:00:00:00:63","note":"{}"}}"#, "[{".repeat(50)));
    let record = with_value("10.244.99.0-24", &wordy, 1);
    assert!(matches!(inspect(&rules(false), &record), Ok(Inspected::Peer(_))), "brackets in a text are no nesting");
}

#[test]
fn backend_data_that_makes_no_sense_is_refused() {
    let refused = |data: &str| refused("10.244.99.0-24", &lease(r#""10.200.99.2""#, data));
    assert_eq!(refused("null"), Refusal::Missing("BackendData"));
    for data in [
        "\"x\"",
        "{}",
        r#"{"VtepMAC":7}"#,
        r#"{"VtepMAC":"zz"}"#,
        r#"{"VNI":-1,"VtepMAC":"02:00:00:00:00:63"}"#,
        r#"{"VNI":1.5,"VtepMAC":"02:00:00:00:00:63"}"#,
        r#"{"VNI":"1","VtepMAC":"02:00:00:00:00:63"}"#,
    ] {
        assert!(matches!(refused(data), Refusal::BackendData(..)), "{data}");
    }
    for vni in [99, 1 << 24, u64::from(u32::MAX)] {
        assert_eq!(refused(&format!(r#"{{"VNI":{vni},"VtepMAC":"02:00:00:00:00:63"}}"#)), Refusal::Vni(vni, 1));
    }
    for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
        assert!(matches!(refused(&format!(r#"{{"VtepMAC":"{bad}"}}"#)), Refusal::NotUnicast(_)), "{bad}");
    }
    assert_eq!(refused(&format!(r#"{{"VtepMAC":"{}"}}"#, mac(1))), Refusal::OwnMac(mac(1)));
}

#[test]
fn public_addresses_that_nobody_can_be_dialled_at_are_refused() {
    for ip in
        ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1", "240.0.0.1", "10.244.3.3", "10.200.1.2"]
    {
        let value = lease(&format!("\"{ip}\""), GOOD);
        assert!(matches!(refused("10.244.99.0-24", &value), Refusal::PublicIp(..)), "{ip}");
    }
    for ip in ["\"999.1.1.1\"", "\"10.0.0.1 \"", "\"fd00::1\"", "7", "null"] {
        assert!(matches!(refused("10.244.99.0-24", &lease(ip, GOOD)), Refusal::Json(_)), "{ip}");
    }
    for ip in ["fe80::1", "ff02::1", "::", "::1", "::ffff:10.0.0.1", "fd00::1", "fc00::9"] {
        let mut bad = record(5, true);
        let text = String::from_utf8(bad.value).unwrap().replace("fd00::5", ip);
        bad.value = text.into();
        assert!(matches!(inspect(&rules(true), &bad), Err(Refusal::PublicIp(..))), "{ip}");
    }
}

#[test]
fn other_backends_and_missing_types_are_refused_but_reservations_are_not() {
    let value = r#"{"PublicIP":"10.200.99.2","PublicIPv6":null,"BackendType":"host-gw"}"#;
    assert_eq!(refused("10.244.99.0-24", value), Refusal::BackendType("host-gw".into(), "vxlan"));
    let bare = r#"{"PublicIP":"10.200.99.2","PublicIPv6":null}"#;
    assert_eq!(refused("10.244.99.0-24", bare), Refusal::BackendType(String::new(), "vxlan"));
    let mut reserved = with_value("10.244.99.0-24", bare, 1);
    reserved.lease_id = 0;
    assert_eq!(inspect(&rules(false), &reserved), Ok(Inspected::Reservation));
    let mut full = with_value("10.244.99.0-24", &lease(r#""10.200.99.2""#, GOOD), 1);
    full.lease_id = 0;
    assert!(matches!(inspect(&rules(false), &full), Ok(Inspected::Peer(_))), "a reservation in use");
}

#[test]
fn our_own_leases_are_not_peers() {
    assert_eq!(inspect(&rules(false), &with_value("10.244.1.0-24", "junk", 1)), Ok(Inspected::Own));
    let mut older = record(1, false);
    older.key = "10.244.77.0-24".into();
    assert_eq!(inspect(&rules(false), &older), Ok(Inspected::Own));
}

#[test]
fn names_cannot_carry_control_characters_into_a_terminal() {
    let mut value = crate::plan::fixtures::value(5, false);
    value.node_name = "a\u{1b}[2Jb".into();
    let record = with_value("10.244.5.0-24", &serde_json::to_string(&value).unwrap(), 1);
    let Ok(Inspected::Peer(peer)) = inspect(&rules(false), &record) else { panic!("refused") };
    assert_eq!(peer.node, "a[2Jb");
}

#[test]
fn an_interface_whose_network_holds_the_whole_overlay_costs_no_lease() {
    // A VPN comes up with 10.0.0.1/8: longest prefix wins, and every lease would be refused.
    let mut wide = rules(false);
    wide.local_nets.push(("10.0.0.0/8".parse().unwrap(), "tun0".into()));
    assert!(matches!(inspect(&wide, &record(2, false)), Ok(Inspected::Peer(_))));
}

#[test]
fn only_who_says_so_plainly_takes_packets_without_checksum() {
    let told = |edit: &dyn Fn(&mut Value)| {
        let mut value = crate::plan::fixtures::value(5, true);
        edit(value.backend_v6_data.as_mut().unwrap());
        let record = with_value(record(5, true).key, &serde_json::to_string(&value).unwrap(), 1);
        let Ok(Inspected::Peer(peer)) = inspect(&rules(true), &record) else { panic!("refused") };
        peer.zero_checksum_v6
    };
    assert!(!told(&|_| {}), "flannel's own");
    assert!(told(&|data| data["ZeroChecksum"] = true.into()));
    for odd in [serde_json::json!(false), serde_json::json!("true"), serde_json::json!(1), Value::Null] {
        assert!(!told(&|data| data["ZeroChecksum"] = odd.clone()), "{odd}");
    }
}
