use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;

use super::*;

fn pair<Net: FromStr<Err: std::fmt::Debug>>(network: &str, subnet: &str) -> Pair<Net> {
    Pair { network: network.parse().unwrap(), subnet: subnet.parse().unwrap() }
}

#[test]
fn dual_stack_byte_for_byte() {
    let env = SubnetEnv {
        v4: Some(pair("10.5.0.0/16", "10.5.11.0/24")),
        v6: Some(pair("fc00:5::/48", "fc00:5:0:3e::/64")),
        mtu: 1450,
        ip_masq: false,
    };
    assert_eq!(
        env.render(),
        "FLANNEL_NETWORK=10.5.0.0/16\n\
         FLANNEL_SUBNET=10.5.11.1/24\n\
         FLANNEL_IPV6_NETWORK=fc00:5::/48\n\
         FLANNEL_IPV6_SUBNET=fc00:5:0:3e::1/64\n\
         FLANNEL_MTU=1450\n\
         FLANNEL_IPMASQ=false\n"
    );
}

#[test]
fn a_family_that_is_off_has_no_lines() {
    let env = SubnetEnv { v4: Some(pair("10.5.0.0/16", "10.5.11.0/24")), v6: None, mtu: 1500, ip_masq: true };
    assert_eq!(
        env.render(),
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.11.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n"
    );
    let env = SubnetEnv { v4: None, v6: Some(pair("fc00:5::/48", "fc00:5:0:3e::/64")), mtu: 1430, ip_masq: true };
    assert_eq!(
        env.render(),
        "FLANNEL_IPV6_NETWORK=fc00:5::/48\nFLANNEL_IPV6_SUBNET=fc00:5:0:3e::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    );
}

#[test]
fn dotenv_forms_are_understood() {
    let previous = Previous::parse(
        "# written by hand\n\n export FLANNEL_NETWORK='10.5.0.0/16' # quoted\nFLANNEL_SUBNET: \"10.5.11.1/24\"\n\
         FLANNEL_IPV6_SUBNET = fc00:5:0:3e::1/64 # plain\nFLANNEL_MTU=1450\r\nFLANNEL_IPMASQ=true\nOTHER=1",
    );
    assert_eq!(previous.problems, []);
    assert_eq!(previous.network_v4, "10.5.0.0/16".parse().ok());
    assert_eq!(previous.subnet_v4, "10.5.11.0/24".parse().ok());
    assert_eq!(previous.subnet_v6, "fc00:5:0:3e::/64".parse().ok());
    assert_eq!((previous.mtu, previous.ip_masq), (Some(1450), Some(true)));
}

#[test]
fn several_ranges_count_as_none() {
    let previous = Previous::parse("FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.11.1/24,\n");
    assert_eq!(previous.network_v4, None);
    assert_eq!(previous.subnet_v4, "10.5.11.0/24".parse().ok());
    assert_eq!(previous.problems, [Problem::Several { key: "FLANNEL_NETWORK" }]);
}

#[test]
fn a_damaged_line_costs_nothing_but_itself() {
    let previous = Previous::parse("garbage\nFLANNEL_MTU=fat\nFLANNEL_SUBNET=10.5.11.1/24\nFLANNEL_IPV6_SUBNET=\n");
    assert_eq!(previous.subnet_v4, "10.5.11.0/24".parse().ok());
    assert_eq!(
        previous.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["line 1 is not of the form KEY=value", "FLANNEL_MTU is \"fat\", which is not a number"]
    );
    assert_eq!(Previous::parse("FLANNEL_SUBNET=10.5.11").problems.len(), 1);
}

#[test]
fn a_missing_file_is_empty_and_a_written_one_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flannel/subnet.env");
    assert_eq!(Previous::read(&path).unwrap(), Previous::default());
    let env = SubnetEnv { v4: Some(pair("10.5.0.0/16", "10.5.11.0/24")), v6: None, mtu: 1450, ip_masq: false };
    assert!(env.write(&path).unwrap());
    assert!(!env.write(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(Previous::read(&path).unwrap().subnet_v4, "10.5.11.0/24".parse().ok());
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(a in any::<u32>(), b in any::<u128>(), len4 in 0u8..=30, len6 in 0u8..=126, mtu in any::<u32>(), ip_masq: bool) {
        let net4 = Ipv4Net::new(a.into(), len4).unwrap().trunc();
        let net6 = Ipv6Net::new(b.into(), len6).unwrap().trunc();
        let env = SubnetEnv {
            v4: Some(Pair { network: net4, subnet: net4 }),
            v6: Some(Pair { network: net6, subnet: net6 }),
            mtu,
            ip_masq,
        };
        let expected = Previous {
            network_v4: Some(net4), subnet_v4: Some(net4), network_v6: Some(net6), subnet_v6: Some(net6),
            mtu: Some(mtu), ip_masq: Some(ip_masq), problems: vec![],
        };
        prop_assert_eq!(Previous::parse(&env.render()), expected);
    }

    #[test]
    fn no_text_panics(text in "(?s).{0,200}", line in "(export )?FLANNEL_[A-Z_]{1,12}[=:]['\"]?.{0,40}") {
        Previous::parse(&text);
        Previous::parse(&line);
    }
}
