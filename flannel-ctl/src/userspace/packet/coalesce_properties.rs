use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::{
    super::{
        group::{sequence_len, short},
        layout::{TCP, UDP},
        testing::Packet,
    },
    tests::{DIFFERENCES, LIMITS, applies, coalesce, cut, payload},
    *,
};
use crate::model::Family;

/// A few flows whose trains are interleaved, with some packets changed.
fn any_batch() -> impl Strategy<Value = Vec<Packet>> {
    let flow = (any::<bool>(), any::<bool>(), 0u8..3, 1usize..5000, 1usize..1400, any::<(u16, u32, bool)>());
    let change = (any::<prop::sample::Index>(), 0..DIFFERENCES.len());
    let lost = any::<prop::sample::Index>();
    (
        proptest::collection::vec(flow, 1..5),
        proptest::collection::vec(change, 0..4),
        proptest::collection::vec(lost, 0..3),
        any::<u64>(),
    )
        .prop_map(|(flows, changes, lost, order)| {
            let mut trains: Vec<VecDeque<Packet>> = flows
                .into_iter()
                .map(|(v6, udp, host, len, size, (id, sequence, df))| {
                    let whole = Packet {
                        family: if v6 { Family::V6 } else { Family::V4 },
                        protocol: if udp { UDP } else { TCP },
                        hosts: [host, 9],
                        id,
                        sequence,
                        df,
                        payload: payload(len.min(size * 60)),
                        ..Packet::default()
                    };
                    let chunks = whole.payload.chunks(size).enumerate();
                    chunks
                        .map(|(at, chunk)| Packet {
                            id: id.wrapping_add(short(at)),
                            sequence: sequence.wrapping_add(sequence_len(at * size)),
                            payload: chunk.to_vec(),
                            ..whole.clone()
                        })
                        .collect()
                })
                .collect();
            let (mut packets, mut order) = (Vec::new(), order);
            while trains.iter().any(|train| !train.is_empty()) {
                order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (order >> 33) as usize % trains.len();
                packets.extend(trains[at].pop_front());
            }
            for (at, difference) in changes {
                let at = at.index(packets.len());
                let (what, change) = DIFFERENCES[difference];
                let packet = &mut packets[at];
                // Equal identifications with DF are merged, and come back counted up: that has a test of its own.
                let fixed = packet.df && what.starts_with("id ");
                if applies(what, packet) && !fixed && packet.id > 2 && packet.sequence > 2 {
                    change(packet);
                }
            }
            for at in lost {
                if packets.len() > 1 {
                    packets.remove(at.index(packets.len()));
                }
            }
            packets
        })
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<Vec<u8>>>::new();
    for packet in packets {
        let layout = Layout::of(packet).unwrap();
        let flow =
            [layout.addresses(packet), &packet[layout.transport..layout.transport + 4], &[layout.protocol]].concat();
        flows.entry(flow).or_default().push(packet.clone());
    }
    flows
}

proptest! {
    #[test]
    fn what_came_in_is_what_cutting_gives_back(packets in any_batch()) {
        let packets: Vec<Vec<u8>> = packets.iter().map(Packet::octets).collect();
        let out = coalesce(&packets);
        prop_assert!(out.len() <= packets.len());
        prop_assert!(by_flow(&cut(&out)) == by_flow(&packets));
    }

    #[test]
    fn no_octets_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 1..8), plausible: bool, mtu: u16) {
        let mut coalescer = Coalescer::new(Limits { mtu, ..LIMITS });
        let mut packets = packets;
        let (mut batch, mut places) = (Vec::new(), Vec::new());
        for packet in &mut packets {
            let len = u8::try_from(packet.len()).unwrap();
            if let (true, [first, _, high, low, _, _, _, _, _, protocol, ..]) = (plausible, &mut packet[..]) {
                (*first, *high, *low, *protocol) = (0x45, 0, len, if *protocol & 1 == 0 { TCP } else { UDP });
            }
            places.push(batch.len()..batch.len() + packet.len());
            batch.extend_from_slice(packet);
        }
        for place in places {
            let _taken = coalescer.push(&batch, place);
        }
        prop_assert!(coalescer.finish(&batch[..batch.len() / 2]).all(|out| out.octets() <= 65_535));
        prop_assert_eq!(coalescer.finish(&batch).len(), 0);
    }
}
