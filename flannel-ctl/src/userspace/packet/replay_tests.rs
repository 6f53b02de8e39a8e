//! The fuzz targets in the ordinary tests: the committed corpus, and a bounded number of mutations of it, always the same ones.
//!
//! `FLANNEL_SEED` begins elsewhere. `FLANNEL_CORPUS=write` writes the packets that a corpus begins with.

use std::{fs, panic, path::PathBuf};

use super::{
    layout::{
        TCP, UDP,
        flags::{ACK, FIN, PSH},
    },
    testing::Packet,
};
use crate::{model::Family, userspace::packet};

#[expect(unreachable_pub, reason = "the fuzz targets are of another crate")]
#[path = "../../../fuzz/exercise.rs"]
mod exercise;

const MUTATIONS: usize = 6_000;

type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

const TARGETS: [Target; 2] = [("cut", exercise::cut, supers), ("coalesce", exercise::coalesce, batches)];

#[test]
fn corpus_and_mutations_of_it_hold() {
    let mut random = Random(std::env::var("FLANNEL_SEED").map_or(0x9e37_79b9, |seed| seed.parse().unwrap()));
    for (name, target, begin) in TARGETS {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        if std::env::var_os("FLANNEL_CORPUS").is_some() {
            fs::create_dir_all(&directory).unwrap();
            for (at, input) in begin().into_iter().enumerate() {
                fs::write(directory.join(format!("begin-{at:02}")), input).unwrap();
            }
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!corpus.is_empty());
        for (input, file) in corpus.iter().zip(&files) {
            holds(target, input, &file.display().to_string());
        }
        for at in 0..MUTATIONS {
            let seed = random.0;
            let input = mutated(&corpus, &mut random);
            holds(target, &input, &format!("mutation {at} for {name}, FLANNEL_SEED={seed}"));
        }
    }
}

fn holds(target: fn(&[u8]), input: &[u8], what: &str) {
    if let Err(cause) = panic::catch_unwind(|| target(input)) {
        eprintln!("{what}: {input:02x?}");
        panic::resume_unwind(cause);
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = (self.0 | 1) ^ self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(5) {
        let at = random.below(input.len());
        let part = at..(at + random.below(40)).min(input.len());
        match random.below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = [0, 1, 0x45, 0x60, 0x7f, 0x80, 0xff][random.below(7)],
            2 => input.truncate(at),
            3 => drop(input.drain(part)),
            4 => input.extend_from_within(part),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len())..]);
            }
            _ => {
                let (high, low) = (random.below(256), random.below(256));
                input.splice(part, [high, low].map(|value| u8::try_from(value).unwrap()));
            }
        }
    }
    input
}

/// Each kind of packet, small.
fn kinds() -> Vec<Packet> {
    let mut kinds = Vec::new();
    for family in Family::ALL {
        for protocol in [TCP, UDP] {
            let packet = Packet { family, protocol, payload: (0..=255).collect(), ..Packet::default() };
            kinds.push(Packet { flags: ACK | PSH | FIN, ..packet.clone() });
            let ip_options = if family == Family::V4 { vec![1, 1, 1, 0] } else { vec![protocol, 0, 1, 4, 0, 0, 0, 0] };
            kinds.push(Packet { ip_options, options: Vec::new(), df: false, ..packet });
        }
    }
    kinds
}

fn supers() -> Vec<Vec<u8>> {
    let kind = |packet: &Packet| match (packet.protocol, packet.family) {
        (TCP, Family::V4) => 1,
        (TCP, Family::V6) => 4,
        _ => 5,
    };
    let octet = |value: usize| u8::try_from(value).unwrap();
    let header = |packet: &Packet, kind| {
        let start = packet.transport();
        let [s0, s1] = u16::try_from(start).unwrap().to_ne_bytes();
        let [o0, o1] = u16::from(octet(packet.field() - start)).to_ne_bytes();
        let [g0, g1] = 100_u16.to_ne_bytes();
        [1, kind, 0, 0, g0, g1, s0, s1, o0, o1]
    };
    let mut inputs = Vec::new();
    for packet in kinds() {
        inputs.push([&header(&packet, kind(&packet))[..], &packet.partial()].concat());
        inputs.push([&header(&packet, 0)[..], &packet.partial()].concat());
    }
    inputs.push([&[0; 10][..], &kinds()[0].octets()].concat());
    inputs
}

fn batches() -> Vec<Vec<u8>> {
    let batch = |packets: Vec<Vec<u8>>| -> Vec<u8> {
        packets
            .into_iter()
            .flat_map(|packet| [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat())
            .collect()
    };
    let kinds = kinds();
    let mut inputs: Vec<Vec<u8>> = kinds.iter().map(|packet| batch(packet.train(100))).collect();
    inputs.push(batch(kinds.iter().map(Packet::octets).collect()));
    inputs.push(batch(kinds.iter().map(Packet::partial).collect()));
    // Two flows, their packets by turns.
    let (mine, other) = (kinds[0].train(60), Packet { hosts: [3, 4], ..kinds[0].clone() }.train(60));
    inputs.push(batch(mine.into_iter().zip(other).flat_map(|(mine, other)| [mine, other]).collect()));
    inputs
}
