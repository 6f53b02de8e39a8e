//! Much data: it arrives as it was sent, and over the fast path.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use flannel_common::Counter;
use xtask::lab::{Family, Netns};

use crate::{
    site::{Site, skipped},
    talk::connect,
};

/// No divisor of any power of two: what is displaced does not look right.
const CHUNK: usize = 251_003;
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends at least so many octets from one namespace to another, and compares each.
pub(crate) fn transfer(from: &Netns, to: &Netns, at: IpAddr, octets: usize) {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(at, 0))).unwrap().unwrap();
    let mut stream = connect(from, listener.local_addr().unwrap()).unwrap();
    let chunks = octets.div_ceil(CHUNK) as u64;
    let pattern = pattern();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chunk = pattern.clone();
            for number in 0..chunks {
                chunk[..8].copy_from_slice(&number.to_be_bytes());
                stream.write_all(&chunk).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut chunk = vec![0; CHUNK];
        for number in 0..chunks {
            stream.read_exact(&mut chunk).unwrap();
            assert!(chunk[..8] == number.to_be_bytes() && chunk[8..] == pattern[8..], "chunk {number} is garbled");
        }
        assert_eq!(stream.read(&mut chunk).unwrap(), 0, "and nothing after it");
    });
}

/// xorshift64
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(CHUNK).collect()
}

/// More than TCP has sequence numbers, beside a packet filter that drops what connection tracking calls invalid.
#[test]
fn one_connection_outlives_its_sequence_numbers() {
    if skipped(&["conntrack"]) {
        return;
    }
    let site = Site::start("fpbulk", 2, &[]);
    for number in [1, 2] {
        site.drop_invalid(number);
    }
    let start = Instant::now();
    let (from, to) = (site.pod(1), site.pod(2));
    let counts = site.during(1, || transfer(from, to, site.pod_ip(2, Family::V4), (4 << 30) + (64 << 20)));
    println!("4.06 GiB in {:.1?}; {}", start.elapsed(), counts.shown());
    let (fast, slow) = (counts.get(Counter::EgressFast), counts.tunnel.1);
    assert!(fast > 50_000 && slow * 20 < fast, "{}", counts.shown());
    for number in [1, 2] {
        assert_eq!(site.invalid(number), 0);
    }
    site.alive();
}
