//! How fast packets are summed, cut and put together: `cargo run --release --no-default-features --bin speed`.

use std::{hint::black_box, num::NonZeroU16, time::Instant};

use flannel_packets::packet::{
    checksum,
    coalesce::{Coalescer, Limits},
    segment::Cutter,
    virtio::{Gso, GsoKind, VirtioHeader},
};

const ROUNDS: usize = 7;

/// The median of some rounds of some milliseconds: nanoseconds for one call.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, mut calls) = (Instant::now(), 0_u32);
            while start.elapsed().as_millis() < 100 {
                (0..16).for_each(|_| call());
                calls += 16;
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn report(what: &str, octets: usize, nanoseconds: f64) {
    println!("{what:<46} {nanoseconds:>9.0} ns {:>7.1} GB/s", octets as f64 / nanoseconds);
}

/// A TCP super-packet over IPv4 with timestamps.
fn super_packet(payload: usize) -> Vec<u8> {
    let total = u16::try_from(52 + payload).expect("an IPv4 packet");
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 63, 6, 0, 0, 10, 42, 0, 1, 10, 42, 1, 2];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let header = checksum::finish(checksum::sum(&packet, 0));
    packet[10..12].copy_from_slice(&header);
    packet.extend([0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0xf6, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..payload).map(|at| (at * 31 % 256) as u8));
    packet
}

fn main() {
    for octets in [20, 64, 1398, 65_000] {
        let data = vec![0xa5; octets];
        report(
            &format!("sum of {octets} octets"),
            octets,
            nanoseconds(|| {
                black_box(checksum::sum(black_box(&data), 0));
            }),
        );
    }
    let packet = super_packet(62_910);
    let gso = NonZeroU16::new(1398).map(|size| Gso { kind: GsoKind::Tcp4, size, ecn: false });
    let virtio = VirtioHeader { gso, ..VirtioHeader::default() };
    let mut cutter = Cutter::new();
    report(
        "cut 62,910 octets into 45 segments",
        packet.len(),
        nanoseconds(|| {
            black_box(cutter.cut(&virtio, black_box(&packet), 22).expect("can be cut").len());
        }),
    );
    let mut batch = Vec::new();
    let mut places = Vec::new();
    for (header, payload) in cutter.cut(&virtio, &packet, 22).expect("can be cut").iter() {
        places.push(batch.len() + 22..batch.len() + header.len() + payload.len());
        batch.extend([header, payload].concat());
    }
    let mut coalescer = Coalescer::new(Limits { mtu: 1450, tso: true, uso: true });
    report(
        "put 45 segments together",
        packet.len(),
        nanoseconds(|| {
            for place in &places {
                coalescer.push(black_box(&batch), place.clone()).expect("a packet");
            }
            assert_eq!(coalescer.finish(&batch).map(|out| black_box(out).octets()).count(), 1);
        }),
    );
    let small = super_packet(1);
    report(
        "a small packet alone, in and out",
        small.len(),
        nanoseconds(|| {
            coalescer.push(black_box(&small), 0..small.len()).expect("a packet");
            assert_eq!(coalescer.finish(&small).map(|out| black_box(out).octets()).count(), 1);
        }),
    );
    report(
        "a small packet alone, cut",
        small.len(),
        nanoseconds(|| {
            black_box(cutter.cut(&VirtioHeader::default(), black_box(&small), 22).expect("a packet").len());
        }),
    );
}
