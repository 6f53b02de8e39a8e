use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::model::VxlanConfig;

fn good(text: &str) -> Network {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The keys that are complained about.
fn bad(text: &str) -> Vec<String> {
    let ConfigErrors(problems) = parse(text.as_bytes()).expect_err(text);
    assert!(!problems.is_empty(), "{text}");
    problems.into_iter().map(|problem| problem.key).collect()
}

fn range(network: &str, subnet_len: u8, min: &str, max: &str) -> AddressRange {
    let at = |ip: &str| IpNet::new(ip.parse().unwrap(), subnet_len).unwrap();
    AddressRange { network: network.parse().unwrap(), subnet_len, min: at(min), max: at(max) }
}

#[test]
fn flannels_own_vectors() {
    let defaults = good(r#"{ "network": "10.3.0.0/16" }"#);
    assert_eq!(defaults.v4, Some(range("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0")));
    assert_eq!(defaults.v6, None);
    let v6 = good(
        r#"{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false, "Backend": {"Type": "vxlan"} }"#,
    );
    assert_eq!(v6.v6, Some(range("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::")));
    assert_eq!(v6.v4, None);
    let overrides =
        good(r#"{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28 }"#);
    assert_eq!(overrides.v4, Some(range("10.3.0.0/16", 28, "10.3.5.0", "10.3.8.0")));
    let v6 = good(
        r#"{ "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::", "IPv6SubnetMax": "fc00:0:0:f::",
             "IPv6SubnetLen": 124, "enableIPv4": false, "Backend": {"Type": "vxlan"} }"#,
    );
    assert_eq!(v6.v6, Some(range("fc00::/48", 124, "fc00:0:0:1::", "fc00:0:0:f::")));
}

#[test]
fn subnets_grow_smaller_with_the_network() {
    for (network, len) in [("10.0.0.0/8", 24), ("10.0.0.0/22", 24), ("10.0.0.0/23", 25), ("10.0.0.0/28", 30)] {
        assert_eq!(good(&format!(r#"{{"Network":"{network}"}}"#)).v4.unwrap().subnet_len, len, "{network}");
    }
    assert_eq!(bad(r#"{"Network":"10.0.0.0/29"}"#), ["Network"]);
    for (network, len) in [("fc00::/16", 64), ("fc00::/62", 64), ("fc00::/63", 65), ("fc00::/124", 126)] {
        let text = format!(
            r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}","Backend":{{"Type":"host-gw"}}}}"#
        );
        assert_eq!(good(&text).v6.unwrap().subnet_len, len, "{network}");
    }
}

#[test]
fn host_bits_of_the_network_are_masked_off() {
    assert_eq!(good(r#"{"Network":"10.3.7.9/16"}"#).v4.unwrap().network, "10.3.0.0/16".parse().unwrap());
}

#[test]
fn an_absent_backend_is_udp_and_one_without_a_type_is_refused() {
    assert_eq!(good(r#"{"Network":"10.3.0.0/16"}"#).backend, Backend::Udp { port: 8285 });
    for backend in ["{}", "null", "[]", "\"vxlan\"", r#"{"Type":""}"#, r#"{"Type":null}"#, r#"{"Type":7}"#] {
        let keys = bad(&format!(r#"{{"Network":"10.3.0.0/16","Backend":{backend}}}"#));
        assert!(keys.len() == 1 && keys[0].starts_with("Backend"), "{backend}: {keys:?}");
    }
}

#[test]
fn keys_and_types_in_any_case_and_unknown_keys_ignored() {
    let network = good(
        r#"{"NETWORK":"10.3.0.0/16","Rack":{"row":[7]},"backend":{"type":"VXLAN","vni":7,"PORT":4789,"directrouting":true,"MacPrefix":"0E-2A"}}"#,
    );
    let wanted = VxlanConfig { vni: 7, port: 4789, direct_routing: true, ..VxlanConfig::default() };
    assert_eq!(network.backend, Backend::Vxlan(wanted));
}

#[test]
fn vxlan_port_0_is_the_kernels_default() {
    let network = good(r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","Port":0,"MTU":0}}"#);
    assert_eq!(network.backend, Backend::Vxlan(VxlanConfig::default()));
}

#[test]
fn commands_in_the_config_are_refused_by_name() {
    let text = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"extension","PreStartupCommand":"touch /tmp/owned"}}"#;
    let error = parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("\"extension\"") && error.contains("never run"), "{error}");
    for name in ["wireguard", "ipip", "ipsec", "tencent-vpc", "ali-vpc", "warp"] {
        let error =
            parse(format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"{name}"}}}}"#).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    for (text, keys) in [
        // Sizes.
        (r#"{"Network":"10.3.0.0/31"}"#, vec!["Network"]),
        (r#"{"Network":"10.3.0.0/32"}"#, vec!["Network"]),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":17}"#, vec!["SubnetLen"]),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":8}"#, vec!["SubnetLen"]),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":31}"#, vec!["SubnetLen"]),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":0}"#, vec!["SubnetLen"]),
        (r#"{"Network":"10.3.0.0/16","SubnetLen":255}"#, vec!["SubnetLen"]),
        (r#"{"Network":"10.3.0.0/31","SubnetLen":30}"#, vec!["SubnetLen"]),
        // First and last subnet.
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}"#, vec!["SubnetMin"]),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}"#, vec!["SubnetMin"]),
        (r#"{"Network":"10.3.0.0/16","SubnetMax":"10.3.8.128"}"#, vec!["SubnetMax"]),
        (
            r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.1","SubnetMax":"10.9.0.7"}"#,
            vec!["SubnetMin", "SubnetMax", "SubnetMax"],
        ),
        (r#"{"Network":"10.3.0.0/16","SubnetMin":"fc00::"}"#, vec!["SubnetMin"]),
        // Places where no pod can be.
        (r#"{"Network":"127.0.0.0/8"}"#, vec!["Network"]),
        (r#"{"Network":"127.3.0.0/16"}"#, vec!["Network"]),
        (r#"{"Network":"224.0.0.0/4"}"#, vec!["Network"]),
        (r#"{"Network":"239.1.0.0/16"}"#, vec!["Network"]),
        (r#"{"Network":"0.0.0.0/8"}"#, vec!["Network"]),
        (r#"{"Network":"0.0.0.0/0"}"#, vec!["Network"; 5]),
        (r#"{"Network":"fc00::/48"}"#, vec!["Network"]),
        (r#"{"Network":""}"#, vec!["Network"]),
        // Families.
        (r"{}", vec!["Network"]),
        (r#"{"Network":null}"#, vec!["Network"]),
        (r#"{"Network":"10.3.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}"#, vec!["IPv6Network"]),
        (r#"{"Network":"10.3.0.0/16","EnableIPv4":false}"#, vec!["EnableIPv4"]),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ff00::/48","Backend":{"Type":"vxlan"}}"#,
            vec!["IPv6Network"],
        ),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"::/0","Backend":{"Type":"vxlan"}}"#,
            vec!["IPv6Network"; 4],
        ),
        (r#"{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}"#, vec!["Backend.Type"]),
        // Backend keys.
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, vec!["Backend.VNI"]),
        (
            r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":-1,"Port":65536}}"#,
            vec!["Backend.Port", "Backend.VNI"],
        ),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":100}}"#, vec!["Backend.MTU"]),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","GBP":"yes"}}"#, vec!["Backend.GBP"]),
        (r#"{"Network":"10.3.0.0/16","Backend":{"Type":"udp","Port":0}}"#, vec!["Backend.Port"]),
        // Not a config at all.
        ("", vec!["config"]),
        ("null", vec!["config"]),
        ("[]", vec!["config"]),
        ("{{{{", vec!["config"]),
        (r#"{"Network":"10.3.0.0/16"} x"#, vec!["config"]),
    ] {
        assert_eq!(bad(text), keys, "{text}");
    }
    assert_eq!(bad(&"[".repeat(20_000)), ["config"]);
    assert_eq!(bad(&format!(r#"{{"x":"{}"}}"#, "y".repeat(LARGEST))), ["config"]);
}

#[test]
fn every_problem_is_told_at_once() {
    let text = r#"{"Network":"10.3.0.0/99","EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":200,"EnableNFTables":"no",
                   "Backend":{"Type":"vxlan","VNI":99999999,"Port":"8472","Learning":1}}"#;
    insta::assert_snapshot!(parse(text.as_bytes()).unwrap_err());
}

#[test]
fn the_network_must_not_swallow_what_the_node_is_attached_to() {
    let network = good(r#"{"Network":"10.0.0.0/8"}"#);
    let local: Vec<IpNet> = ["10.200.0.7/24", "192.168.1.5/24", "fd00::1/64"].map(|net| net.parse().unwrap()).into();
    let problems = overlaps(&network, &local);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].to_string(), "Network 10.0.0.0/8: overlaps 10.200.0.7/24, which this node is attached to");
    assert!(overlaps(&good(r#"{"Network":"10.3.0.0/16"}"#), &local).is_empty());
    let wide: IpNet = "10.0.0.0/8".parse().unwrap();
    assert_eq!(
        overlaps(&good(r#"{"Network":"10.3.0.0/16"}"#), &[wide]).len(),
        1,
        "the node's range around the network"
    );
}

/// Configs that mostly make sense.
fn plausible() -> impl Strategy<Value = String> {
    let member = prop_oneof![
        (0u32..=u32::MAX, 0u8..=33)
            .prop_map(|(ip, len)| format!(r#""Network":"{}/{len}""#, std::net::Ipv4Addr::from(ip))),
        (0u8..=28).prop_map(|len| format!(r#""Network":"10.0.0.0/{len}""#)),
        (0u8..=129).prop_map(|len| format!(r#""IPv6Network":"fc00::/{len}""#)),
        (0u16..300).prop_map(|len| format!(r#""SubnetLen":{len}"#)),
        (0u16..300).prop_map(|len| format!(r#""IPv6SubnetLen":{len}"#)),
        any::<u32>()
            .prop_map(|ip| format!(r#""SubnetMin":"{}""#, std::net::Ipv4Addr::from(ip & 0xff_ffff | 0x0a00_0000))),
        any::<u128>().prop_map(|ip| format!(r#""IPv6SubnetMax":"{}""#, std::net::Ipv6Addr::from(ip))),
        any::<bool>().prop_map(|on| format!(r#""EnableIPv6":{on}"#)),
        any::<bool>().prop_map(|on| format!(r#""EnableIPv4":{on}"#)),
        any::<bool>().prop_map(|on| format!(r#""enablenftables":{on}"#)),
        ("vxlan|host-gw|udp|alloc|ipip", 0u32..1 << 25, 0u32..70_000).prop_map(|(kind, vni, port)| format!(
            r#""Backend":{{"Type":"{kind}","VNI":{vni},"Port":{port},"MTU":{port}}}"#
        )),
    ];
    proptest::collection::vec(member, 0..8).prop_map(|members| format!("{{{}}}", members.join(",")))
}

proptest! {
    #[test]
    fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse(&text));
    }

    #[test]
    fn whatever_is_accepted_is_sound_and_reads_back_the_same(text in plausible()) {
        if let Ok(network) = parse(text.as_bytes()) {
            prop_assert_eq!(parse(to_json(&network).to_string().as_bytes()), Ok(network.clone()));
            prop_assert!(network.families().next().is_some());
            for family in network.families() {
                let range = network.range(family).unwrap();
                prop_assert!(range.network.contains(&range.min) && range.network.contains(&range.max));
                prop_assert!(range.min.addr() <= range.max.addr());
                prop_assert_eq!(range.min, range.min.trunc());
                prop_assert_eq!(range.max, range.max.trunc());
                prop_assert_eq!((range.min.prefix_len(), range.max.prefix_len()), (range.subnet_len, range.subnet_len));
            }
        }
    }
}
