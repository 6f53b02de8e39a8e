use super::*;
use crate::model::{AddressRange, Backend};

fn range(network: &str, len: u8, min: &str, max: &str) -> AddressRange {
    let net = |addr: &str| format!("{addr}/{len}").parse().unwrap();
    AddressRange { network: network.parse().unwrap(), subnet_len: len, min: net(min), max: net(max) }
}

fn network(v4: bool, v6: bool) -> Network {
    Network {
        v4: v4.then(|| range("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0")),
        v6: v6.then(|| range("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::")),
        nftables: false,
        backend: Backend::Alloc,
    }
}

fn value(ip: &str, id: &str) -> LeaseValue {
    serde_json::from_str(&format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null,"NodeID":"{id}"}}"#)).unwrap()
}

fn record(key: &str, ip: &str, id: &str, lease_id: i64) -> LeaseRecord {
    let value = serde_json::to_vec(&value(ip, id)).unwrap();
    LeaseRecord { key: key.into(), value, created: 1, modified: 1, lease_id }
}

fn decide(records: &[LeaseRecord], previous: Option<&str>) -> Result<Decision, Exhausted> {
    let (network, us) = (network(true, false), value("10.0.0.1", "a"));
    let previous = previous.map(|key| Subnet::from_key(key).unwrap());
    choose(&Claim { network: &network, value: &us, previous, random: 7, silent: &[] }, records)
}

fn kept(decision: &Decision) -> &str {
    match &decision.take {
        Take::Keep(_, record) => &record.key,
        Take::Create(_) => panic!("created"),
    }
}

#[test]
fn our_node_id_beats_our_address_and_a_reservation_beats_both() {
    let mut records = vec![record("10.5.3.0-24", "10.0.0.1", "", 5), record("10.5.9.0-24", "10.0.0.7", "a", 6)];
    let decision = decide(&records, None).unwrap();
    assert_eq!(kept(&decision), "10.5.9.0-24");
    assert!(decision.release.is_empty(), "what only carries our address may be another's");
    records.push(record("10.5.4.0-24", "10.0.0.1", "", 0));
    let decision = decide(&records, None).unwrap();
    assert_eq!(kept(&decision), "10.5.4.0-24");
    assert_eq!(decision.release, vec![records[1].clone()]);
}

#[test]
fn what_does_not_fit_is_released_unless_it_is_a_reservation() {
    let wrong = [
        record("10.6.3.0-24", "10.0.0.1", "", 5),
        record("10.5.3.0-25", "10.0.0.1", "a", 5),
        record("10.5.0.0-24", "10.0.0.1", "a", 5),
        record("10.5.7.0-24&fc00:0:0:7::-64", "10.0.0.1", "a", 5),
        record("10.6.4.0-24", "10.0.0.1", "a", 0),
    ];
    let decision = decide(&wrong, Some("10.6.3.0-24")).unwrap();
    assert_eq!(decision.release, wrong[..4].to_vec());
    assert_eq!(decision.take, Take::Create(Subnet::from_key("10.5.10.0-24").unwrap()), "the eighth that is free");
}

fn asked(decision: &Decision) -> Vec<&str> {
    decision.ask.iter().map(|record| record.key.as_str()).collect()
}

#[test]
fn a_lease_with_our_address_and_another_id_is_ours_unless_its_holder_answers() {
    let records = [record("10.5.3.0-24", "10.0.0.1", "b", 5)];
    let decision = decide(&records, Some("10.5.200.0-24")).unwrap();
    assert_eq!((kept(&decision), asked(&decision)), ("10.5.3.0-24", vec!["10.5.3.0-24"]));
    assert!(decision.release.is_empty() && decision.rivals.is_empty());
    let reserved = [record("10.5.3.0-24", "10.0.0.1", "b", 0)];
    let decision = decide(&reserved, None).unwrap();
    assert!(matches!(decision.take, Take::Create(_)), "it is reserved for that node");
    assert_eq!((decision.rivals.as_slice(), asked(&decision)), (&["10.5.3.0-24".to_owned()][..], vec![]));
}

#[test]
fn nobody_is_asked_when_our_own_lease_stands_as_we_are() {
    let mut records = vec![record("10.5.3.0-24", "10.0.0.1", "a", 5), record("10.5.4.0-24", "10.0.0.1", "b", 6)];
    let decision = decide(&records, None).unwrap();
    assert_eq!((kept(&decision), asked(&decision)), ("10.5.3.0-24", vec![]));
    assert_eq!(decision.rivals, vec!["10.5.4.0-24".to_owned()]);
    // A second one with our id may be a copy's, and is not deleted unasked.
    records.push(record("10.5.5.0-24", "10.0.0.9", "a", 7));
    assert_eq!(asked(&decide(&records, None).unwrap()), vec!["10.5.5.0-24"]);
}

#[test]
fn a_lease_with_our_id_and_another_address_is_asked_once_per_revision() {
    let mut records = vec![record("10.5.3.0-24", "10.0.0.9", "a", 5), record("10.5.4.0-24", "0.0.0.0", "a", 0)];
    let (network, us) = (network(true, false), value("10.0.0.1", "a"));
    let silent = [("10.5.3.0-24".to_owned(), 1)];
    let claim = |silent| Claim { network: &network, value: &us, previous: None, random: 7, silent };
    assert_eq!(
        asked(&choose(&claim(&[]), &records).unwrap()),
        vec!["10.5.3.0-24"],
        "a fresh reservation has no holder"
    );
    assert_eq!(asked(&choose(&claim(&silent), &records).unwrap()), Vec::<&str>::new());
    records[0].modified = 2;
    assert_eq!(asked(&choose(&claim(&silent), &records).unwrap()), vec!["10.5.3.0-24"], "somebody wrote since");
}

#[test]
fn the_previous_subnet_if_it_is_still_free() {
    let previous = Some("10.5.200.0-24");
    let take = |records: &[LeaseRecord]| decide(records, previous).unwrap().take;
    assert_eq!(take(&[]), Take::Create(Subnet::from_key("10.5.200.0-24").unwrap()));
    assert_ne!(take(&[record("10.5.200.128-25", "10.0.0.2", "b", 1)]), take(&[]));
}

#[test]
fn a_key_over_the_whole_network_does_not_stop_allocation() {
    let mut records = vec![record("10.5.0.0-16", "10.0.0.2", "", 1), record("10.5.1.0-24", "10.0.0.3", "", 1)];
    let decision = decide(&records, None).unwrap();
    assert_eq!(decision.take, Take::Create(Subnet::from_key("10.5.9.0-24").unwrap()));
    records.remove(0);
    records.push(LeaseRecord { key: "nonsense".into(), ..records[0].clone() });
    assert!(decide(&records, None).is_ok());
}

#[test]
fn exhausted_says_who_holds_it() {
    let records: Vec<_> =
        (1..=255).map(|i| record(&format!("10.5.{i}.0-24"), "10.0.0.2", "b", i64::from(i % 5))).collect();
    let error = decide(&records, None).unwrap_err();
    assert_eq!((error.capacity, error.leases, error.reservations), (255, 255, 51));
    assert!(error.to_string().starts_with("no free IPv4 subnet from 10.5.1.0/24 to 10.5.255.0/24: 255 in all"));
}

#[test]
fn both_families_or_the_one_that_is_on() {
    let us = value("10.0.0.1", "a");
    let create = |v4, v6| {
        let network = network(v4, v6);
        let claim = Claim { network: &network, value: &us, previous: None, random: 3 << 32, silent: &[] };
        choose(&claim, &[]).unwrap().take
    };
    assert_eq!(create(true, true), Take::Create(Subnet::from_key("10.5.1.0-24&fc00:0:0:4::-64").unwrap()));
    assert_eq!(create(false, true), Take::Create(Subnet::from_key("fc00:0:0:4::-64").unwrap()));
}
