use proptest::prelude::*;

use super::{super::testing::Packet, *};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 0));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 42, 0, 0, 0, 0, 0, 0));
const TOO_BIG: Problem = Problem::TooBig { mtu: 1450 };

fn message(problem: Problem, packet: &[u8], from: IpAddr) -> Option<Vec<u8>> {
    let mut out = [0xee; MAX];
    write(problem, packet, from, &mut out).map(|octets| out[..octets].to_vec())
}

#[test]
fn an_ipv4_sender_is_told_the_mtu_and_shown_its_packet() {
    let packet = Packet { payload: vec![1; 1500], ..Packet::default() }.octets();
    let told = message(TOO_BIG, &packet, V4).unwrap();
    assert_eq!(told.len(), 576);
    assert_eq!(told[..10], [0x45, 0xc0, 2, 64, 0, 0, 0x40, 0, 64, 1]);
    assert_eq!(told[12..20], [10, 42, 0, 0, 10, 42, 0, 1]);
    assert_eq!(told[20..22], [3, 4]);
    assert_eq!(told[24..28], [0, 0, 5, 170], "RFC 1191: 1450");
    assert_eq!(told[28..], packet[..548]);
    assert_eq!(checksum::fold(checksum::sum(&told[..20], 0)), 0xffff);
    assert_eq!(checksum::fold(checksum::sum(&told[20..], 0)), 0xffff);
}

#[test]
fn an_ipv6_sender_is_told_the_mtu_and_shown_its_packet() {
    let packet = Packet { family: Family::V6, payload: vec![1; 1500], ..Packet::default() }.octets();
    let told = message(TOO_BIG, &packet, V6).unwrap();
    assert_eq!(told.len(), 1280);
    assert_eq!(told[..8], [0x60, 0, 0, 0, 4, 216, 58, 64]);
    assert_eq!(
        (&told[8..24], &told[24..40]),
        (&[0xfd, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &packet[8..24])
    );
    assert_eq!((told[40..42].to_vec(), told[44..48].to_vec()), (vec![2, 0], vec![0, 0, 5, 170]));
    assert_eq!(told[48..], packet[..1232]);
    let sum = checksum::pseudo(&told[8..40], 58) + checksum::length(1240);
    assert_eq!(checksum::fold(checksum::sum(&told[40..], sum)), 0xffff);
    let told = message(Problem::TooBig { mtu: 600 }, &packet, V6).unwrap();
    assert_eq!(told[44..48], [0, 0, 5, 0], "no less than IPv6's smallest");
}

#[test]
fn each_problem_has_its_numbers() {
    let numbers = |problem, family, from, at| {
        let told = message(problem, &Packet { family, ..Packet::default() }.octets(), from).unwrap();
        (told[at], told[at + 1])
    };
    assert_eq!(numbers(Problem::NoRoute, Family::V4, V4, 20), (3, 0));
    assert_eq!(numbers(Problem::NoRoute, Family::V6, V6, 40), (1, 0));
    assert_eq!(numbers(Problem::TimeExceeded, Family::V4, V4, 20), (11, 0));
    assert_eq!(numbers(Problem::TimeExceeded, Family::V6, V6, 40), (3, 0));
}

#[test]
fn some_packets_are_not_answered() {
    let silent = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = Packet::default().octets();
        change(&mut packet);
        message(Problem::NoRoute, &packet, V4).is_none()
    };
    assert!(!silent(&|_| ()));
    assert!(silent(&|p| p[7] = 1), "a later fragment");
    assert!(!silent(&|p| p[6] = 0x20), "a first fragment");
    assert!(silent(&|p| p[12] = 0), "from nobody");
    assert!(silent(&|p| p[12] = 127));
    assert!(silent(&|p| p[12] = 224));
    assert!(silent(&|p| p[12..16].fill(255)));
    assert!(silent(&|p| p[16] = 239), "to many");
    assert!(silent(&|p| p[16..20].fill(255)));
    assert!(silent(&|p| (p[9], p[20]) = (1, 3)), "an error");
    assert!(!silent(&|p| (p[9], p[20]) = (1, 8)), "an echo request");
    assert!(silent(&|p| p.truncate(30)), "cut short");
    assert!(message(Problem::NoRoute, &Packet::default().octets(), V6).is_none(), "no address of ours");
    let v6 = |problem, change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = Packet { family: Family::V6, ..Packet::default() }.octets();
        change(&mut packet);
        message(problem, &packet, V6).is_none()
    };
    assert!(!v6(Problem::NoRoute, &|_| ()));
    assert!(v6(Problem::NoRoute, &|p| p[24] = 0xff), "to a group");
    assert!(!v6(TOO_BIG, &|p| p[24] = 0xff), "whose senders may learn the MTU");
    assert!(v6(Problem::NoRoute, &|p| p[8] = 0xff));
    assert!(v6(Problem::NoRoute, &|p| p[8..24].fill(0)));
    assert!(v6(Problem::NoRoute, &|p| (p[6], p[40]) = (58, 3)), "an error");
    assert!(!v6(Problem::NoRoute, &|p| (p[6], p[40]) = (58, 128)), "an echo request");
}

#[test]
fn a_sender_that_asks_for_it_gets_twenty_a_second_and_others_theirs() {
    let packet = |host| Packet { hosts: [host, 9], ..Packet::default() }.octets();
    let mut limiter = Limiter::default();
    let mut told = [0; 2];
    for millisecond in 0..10_000 {
        let now = Duration::from_secs(7) + Duration::from_millis(millisecond);
        told[0] += u32::from(limiter.allows(&packet(1), now));
        if millisecond % 100 == 0 {
            told[1] += u32::from(limiter.allows(&packet(2), now));
        }
    }
    assert_eq!(told, [209, 100]);
}

#[test]
fn there_is_a_limit_for_all_senders_together() {
    let mut limiter = Limiter::default();
    let mut told = 0;
    for sender in 0..100_000_u32 {
        let mut packet = Packet::default().octets();
        packet[12..16].copy_from_slice(&(0x0a00_0000 + sender).to_be_bytes());
        told += u32::from(limiter.allows(&packet, Duration::from_micros(u64::from(sender) * 10)));
    }
    assert!((900..=1050).contains(&told), "{told} in a second");
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let mut limiter = Limiter::default();
    let packet = Packet::default().octets();
    assert!(limiter.allows(&packet, Duration::from_secs(1000)));
    assert!(!limiter.allows(&packet, Duration::ZERO));
    assert!(limiter.allows(&packet, Duration::from_secs(1001)));
}

proptest! {
    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..1600), v6: bool, plausible: bool, mtu: u16) {
        let mut octets = octets;
        if let (true, [first, _, high, low, ..]) = (plausible, &mut octets[..]) {
            (*first, *high, *low) = (0x45, 0, 20);
        }
        for problem in [Problem::TooBig { mtu }, Problem::NoRoute, Problem::TimeExceeded] {
            if let Some(told) = message(problem, &octets, if v6 { V6 } else { V4 }) {
                prop_assert!(message(problem, &told, if v6 { V6 } else { V4 }).is_none(), "no answer to an answer");
            }
        }
    }
}
