use bytemuck::Zeroable as _;
use flannel_common::HEADER_WORDS;

use super::*;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 100 * SECOND;
const POD: u32 = 7;

fn tuple(source: &str, destination: &str) -> Tuple {
    let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    Tuple {
        source: source.ip().into(),
        destination: destination.ip().into(),
        source_port: source.port().to_be(),
        destination_port: destination.port().to_be(),
        protocol: 6,
    }
}

fn used(packets: u64, created: u64, proved: u64) -> Use {
    Use { created: created * SECOND, proved: proved * SECOND, packets, bytes: packets * 100 }
}

/// To a peer at 192.0.2.2.
fn egress(wire: Tuple) -> EgressFlow {
    let mut header = [0; HEADER_WORDS];
    bytemuck::bytes_of_mut(&mut header)[30..34].copy_from_slice(&[192, 0, 2, 2]);
    EgressFlow {
        expires: NOW + SECOND,
        epoch: 5,
        pod: POD,
        state: state::PAIRED,
        wire,
        header,
        used: used(10, 40, 98),
        ..EgressFlow::zeroed()
    }
}

fn ingress(delivered: Tuple) -> IngressFlow {
    IngressFlow {
        expires: NOW + 2 * SECOND,
        epoch: 5,
        pod: POD,
        state: state::PAIRED,
        outer: "192.0.2.2".parse::<IpAddr>().unwrap().into(),
        delivered,
        used: used(20, 41, 99),
        ..IngressFlow::zeroed()
    }
}

fn known(egress: Vec<(Tuple, EgressFlow)>, ingress: Vec<(Tuple, IngressFlow)>) -> Known {
    Known {
        settings: Settings { epoch: 5, enabled: 1, deadline: u64::MAX, ..Settings::zeroed() },
        now: NOW,
        egress,
        ingress,
    }
}

fn flows(known: &Known) -> Vec<Flow> {
    known.flows(|index| (index == POD).then(|| "veth7".to_owned()))
}

/// A pod that asks a service, which is a pod of another node.
fn service() -> Known {
    let sent = tuple("10.5.1.2:4000", "10.96.0.10:53");
    let wire = tuple("10.5.1.2:4000", "10.5.2.9:5353");
    known(vec![(sent, egress(wire))], vec![(wire.reversed(), ingress(sent.reversed()))])
}

#[test]
fn both_directions_of_a_translated_flow_are_one() {
    let flows = flows(&service());
    assert_eq!(flows.len(), 1);
    insta::assert_snapshot!(serde_json::to_string_pretty(&flows).unwrap());
}

#[test]
fn the_two_directions_of_other_flows_stay_apart() {
    let mut known = service();
    known.ingress[0].1.delivered = tuple("10.96.0.11:53", "10.5.1.2:4000");
    let flows = flows(&known);
    assert_eq!(flows.len(), 2);
    assert!(flows.iter().all(|flow| flow.reason == Some(Standing::Unseen)), "{flows:?}");
    assert!(flows.iter().all(|flow| flow.peer == "192.0.2.2".parse::<IpAddr>().unwrap()), "{flows:?}");
}

#[test]
fn why_a_flow_is_not_fast() {
    let reason = |change: &dyn Fn(&mut Known)| {
        let mut known = service();
        change(&mut known);
        let flow = flows(&known).remove(0);
        assert_eq!(flow.fast, flow.reason.is_none());
        flow.reason
    };
    assert_eq!(reason(&|_| {}), None);
    assert_eq!(reason(&|known| known.now += 2 * SECOND), Some(Standing::Expired));
    assert_eq!(reason(&|known| known.settings.epoch += 1), Some(Standing::Doubted));
    assert_eq!(reason(&|known| known.settings.enabled = 0), Some(Standing::Off));
    assert_eq!(reason(&|known| known.settings.deadline = NOW - 1), Some(Standing::NoDaemon));
    assert_eq!(reason(&|known| known.egress[0].1.state = 0), Some(Standing::OneWay));
    assert_eq!(reason(&|known| known.ingress[0].1.state = 0), Some(Standing::OneWay));
    assert_eq!(reason(&|known| known.ingress.clear()), Some(Standing::Unseen));
    assert_eq!(reason(&|known| known.egress[0].1.pod = 8), Some(Standing::InterfaceGone));
}

#[test]
fn a_peer_is_read_from_an_ipv6_header() {
    let wire = tuple("[fc00:5::2]:4000", "[fc00:6::9]:53");
    let peer: IpAddr = "2001:db8::2".parse().unwrap();
    let mut header = [0; HEADER_WORDS];
    let IpAddr::V6(v6) = peer else { unreachable!() };
    bytemuck::bytes_of_mut(&mut header)[38..54].copy_from_slice(&v6.octets());
    let flow = EgressFlow { header, ..egress(wire) };
    assert_eq!(flows(&known(vec![(wire, flow)], Vec::new()))[0].peer, peer);
}
