use super::*;

fn policy() -> FilterPolicy {
    let network = "10.244.0.0/16".parse().unwrap();
    let masquerade = Masquerade {
        network,
        subnet: "10.244.1.0/24".parse().unwrap(),
        exclude: vec!["192.168.0.0/16".parse().unwrap()],
        fully_random: true,
    };
    FilterPolicy { masquerade: vec![masquerade], forward: vec![network], guard: None }
}

fn saved(text: &str, chain: &Chain) -> Table {
    Table::parse(text, chain.table)
}

#[test]
fn both_chains_into_empty_tables() {
    let nat = Chain::masquerade(Family::V4, Some(&policy())).converge(&Table::default()).unwrap();
    let filter = Chain::forward(Family::V4, Some(&policy())).converge(&Table::default()).unwrap();
    insta::assert_snapshot!(nat + &filter);
}

#[test]
fn the_other_family_has_nothing_to_do() {
    assert_eq!(Chain::masquerade(Family::V6, Some(&policy())).converge(&Table::default()), None);
}

#[test]
fn jumps_become_one_in_front_of_what_stops_everything() {
    let chain = Chain::forward(Family::V4, Some(&policy()));
    let now = "*filter\n:FORWARD ACCEPT [0:0]\n:FLANNEL-FWD - [0:0]\n\
        -A FORWARD -j FLANNEL-FWD\n\
        -A FORWARD -i lo -j ACCEPT\n\
        -A FORWARD -m comment --comment \"the end\" -j REJECT --reject-with icmp-host-prohibited\n\
        -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\nCOMMIT\n";
    insta::assert_snapshot!(chain.converge(&saved(now, &chain)).unwrap());
}

#[test]
fn rules_of_old_flannel_in_the_built_in_chain_go() {
    let chain = Chain::masquerade(Family::V4, None);
    let now = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE\n\
        -A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN\nCOMMIT\n";
    let text = chain.converge(&saved(now, &chain)).unwrap();
    assert!(text.contains("-D POSTROUTING -s 10.244.0.0/16") && !text.contains("10.9.0.0"), "{text}");
}

#[test]
fn what_drops_is_recognised() {
    let table = |text: &str| Table::parse(text, "filter");
    assert!(forward_needs_accept(&table("*filter\n:FORWARD DROP [0:0]\n")));
    assert!(forward_needs_accept(&table("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\n")));
    assert!(forward_needs_accept(&table("*filter\n:DOCKER-USER - [0:0]\n")));
    assert!(!forward_needs_accept(&table("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.0.0.9/32 -j DROP\n")));
    assert!(!forward_needs_accept(&Table::default()));
}
