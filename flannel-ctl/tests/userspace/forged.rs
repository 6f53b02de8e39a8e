//! Datagrams that nobody should send.

use std::{io::ErrorKind, os::fd::BorrowedFd, time::Duration};

use flannel_ctl::{
    model::Family,
    userspace::{Counter, Engine, Inherited, Options, Wire},
};
use socket2::{SockFilter, SockRef};
use xtask::lab::{skip_unless, wait};

use super::site::{PATIENCE, VNI, echo, inner, mac, nodes, outer, vxlan};

/// VXLAN, Ethernet, IPv4 and UDP to the first node's port, with one octet of payload and no UDP checksum.
fn forged(source: [u8; 4], port: u16) -> Vec<u8> {
    let wire = Wire::Vxlan { vni: VNI, port: 8472, mac: mac(2) };
    let mut datagram = vec![0; wire.room()];
    wire.write(&mut datagram, mac(1), Family::V4);
    let mut packet = vec![0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend([10, 244, 1, 1]);
    let sum: u32 = packet.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet.extend(7777_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 9, 0, 0, b'!']);
    datagram.extend(packet);
    datagram
}

#[test]
fn what_is_forged_is_dropped_and_counted_by_its_reason() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usf");
    first.start(&first.options(vxlan(1), Family::V4));
    second.start(&second.options(vxlan(2), Family::V4));
    let victim = first.udp(inner(Family::V4, 1));
    let port = victim.local_addr().unwrap().port();
    let attacker = second.udp(outer(Family::V4, 2));
    attacker.connect((outer(Family::V4, 1), 8472)).unwrap();

    let good = forged([10, 244, 2, 9], port);
    let changed = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        bad
    };
    let cases = [
        (forged([10, 244, 3, 9], port), Counter::ReceivedForged),
        (forged([10, 244, 1, 1], port), Counter::ReceivedForged),
        (changed(0, 0), Counter::ReceivedFlags),
        (changed(0, 0x88), Counter::ReceivedFlags),
        (changed(6, 2), Counter::ReceivedVni),
        (changed(13, 9), Counter::ReceivedMac),
        (changed(8, 0xff), Counter::ReceivedMac),
        (changed(20, 0x86), Counter::ReceivedProtocol),
        (changed(22, 0x55), Counter::ReceivedProtocol),
        (changed(22, 0x44), Counter::ReceivedMalformed),
        (good[..good.len() - 1].to_vec(), Counter::ReceivedMalformed),
        (good[..30].to_vec(), Counter::ReceivedMalformed),
        (good[..22].to_vec(), Counter::ReceivedMalformed),
        (good[..7].to_vec(), Counter::ReceivedMalformed),
        (Vec::new(), Counter::ReceivedMalformed),
    ];
    for (datagram, reason) in cases {
        let before = first.count(reason);
        attacker.send(&datagram).unwrap();
        wait::until(&format!("{} to be counted for {datagram:02x?}", reason.label()), PATIENCE, || {
            (first.count(reason) > before).then_some(())
        })
        .unwrap();
    }
    // The same from the node that leased the source does arrive: it was the forgery that was dropped.
    attacker.send(&good).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(victim.recv(&mut buffer).unwrap(), 1, "and nothing before it");
    victim.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let after = victim.recv(&mut buffer).unwrap_err();
    assert!(matches!(after.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{after}");
    echo(&second, &first, Family::V4, 100);
}

/// What comes in thousands is dropped before anybody is woken for it; what is for this node is not, and once it is over every reason is
/// counted again.
#[test]
fn a_flood_is_filtered_and_what_is_meant_for_this_node_passes() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usff");
    first.start(&Options { queues: Some(1), ..first.options(vxlan(1), Family::V4) });
    second.start(&second.options(vxlan(2), Family::V4));
    let victim = first.udp(inner(Family::V4, 1));
    let port = victim.local_addr().unwrap().port();
    let attacker = second.udp(outer(Family::V4, 2));
    attacker.connect((outer(Family::V4, 1), 8472)).unwrap();
    let good = forged([10, 244, 2, 9], port);
    let mut bad = good.clone();
    bad[6] = 2;

    let mut sent = 0;
    wait::until("the flood to be filtered", PATIENCE, || {
        for _ in 0..500 {
            attacker.send(&bad).unwrap();
        }
        sent += 500;
        (first.count(Counter::ReceivedFiltered) > 0).then_some(())
    })
    .unwrap();
    attacker.send(&good).unwrap();
    assert_eq!(victim.recv(&mut [0; 10]).unwrap(), 1);
    echo(&second, &first, Family::V4, 1400);
    let counted = || {
        let counters = [Counter::ReceivedVni, Counter::ReceivedFiltered, Counter::ReceivedOverflow];
        counters.map(|counter| first.count(counter)).iter().sum::<u64>()
    };
    // The wire may have lost some.
    wait::until("it to be counted", PATIENCE, || (counted() > sent / 10 * 9).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {} of {sent}", counted()));
    assert!(counted() <= sent, "{} of {sent}", counted());

    let (filtered, named) = (first.count(Counter::ReceivedFiltered), first.count(Counter::ReceivedVni));
    wait::until("reasons to be counted again", PATIENCE, || {
        attacker.send(&bad).unwrap();
        (first.count(Counter::ReceivedVni) > named).then_some(())
    })
    .unwrap();
    assert!(first.count(Counter::ReceivedFiltered) >= filtered, "what was counted stays counted");

    // The next engine begins without the filter of the last one.
    let engine = first.engine.take().unwrap();
    let keep = |descriptors: Vec<BorrowedFd<'_>>| {
        descriptors.iter().map(|descriptor| descriptor.try_clone_to_owned().unwrap()).collect::<Vec<_>>()
    };
    let inherited = Inherited { queues: keep(engine.queues()), sockets: keep(engine.sockets()) };
    engine.stop();
    SockRef::from(&inherited.sockets[0]).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
    let (options, table) = (first.options(vxlan(1), Family::V4), first.table(Family::V4));
    let start = || Engine::start_with(&options, &table, inherited, |error| panic!("{error}"));
    first.engine = Some(first.netns.enter(start).unwrap().unwrap());
    assert!(first.engine.as_ref().unwrap().has_adopted());
    echo(&second, &first, Family::V4, 100);
}
