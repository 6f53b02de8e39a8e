use super::*;
use crate::model::{GuardPolicy, Masquerade};

fn policy() -> FilterPolicy {
    let masquerade = |network: &str, subnet: &str, exclude: &[&str], fully_random| Masquerade {
        network: network.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        exclude: exclude.iter().map(|net| net.parse().unwrap()).collect(),
        fully_random,
    };
    let networks: Vec<IpNet> = ["10.244.0.0/16", "fd00:244::/32"].map(|net| net.parse().unwrap()).to_vec();
    FilterPolicy {
        masquerade: vec![
            masquerade("10.244.0.0/16", "10.244.1.0/24", &["192.168.7.9/16"], true),
            masquerade("fd00:244::/32", "fd00:244:0:1::/64", &[], false),
        ],
        forward: networks.clone(),
        guard: Some(GuardPolicy {
            port: 8472,
            vni: Some(1),
            count_only: false,
            v4_len: Some(27),
            v6_len: Some(64),
            pods: networks,
        }),
    }
}

#[test]
fn the_whole_policy() {
    insta::assert_snapshot!(foundation(true) + &rules(&policy()).script);
}

#[test]
fn without_rules_there_are_no_chains() {
    let rules = rules(&FilterPolicy::default());
    assert!(rules.chains.is_empty());
    insta::assert_snapshot!(rules.script);
}

#[test]
fn every_prefix_length_has_its_mask() {
    for (length, mask) in [(0, "0x00000000"), (1, "0x80000000"), (31, "0xfffffffe"), (32, "0xffffffff")] {
        let guard = GuardPolicy {
            port: 1,
            vni: Some(1),
            count_only: true,
            v4_len: Some(length),
            v6_len: None,
            pods: Vec::new(),
        };
        let rules = guard::judge_rules(&guard).join("\n");
        assert!(rules.contains(&format!("& {mask})")), "{length}: {rules}");
        assert!(!rules.contains("drop") && !rules.contains("@peers-v6"), "{rules}");
    }
}

#[test]
fn where_an_engine_judges_peers_only_what_pods_send_is_looked_at() {
    let engine = |vni, pods: &[&str]| GuardPolicy {
        port: 8472,
        vni,
        count_only: false,
        v4_len: None,
        v6_len: None,
        pods: pods.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let vxlan = engine(Some(1), &["10.244.0.0/16", "fd00:244::/32"]);
    let udp = engine(None, &["10.244.0.0/16"]);
    insta::assert_snapshot!(
        [&vxlan, &udp]
            .map(|guard| [guard::hook_rules(guard), guard::judge_rules(guard)].concat().join("\n"))
            .join("\n\n")
    );
}

#[test]
fn fingerprints_tell_policies_apart() {
    let one = rules(&policy()).fingerprint();
    assert_eq!(one, rules(&policy()).fingerprint());
    let mut other = policy();
    other.masquerade[1].fully_random = true;
    assert_ne!(one, rules(&other).fingerprint());
}
