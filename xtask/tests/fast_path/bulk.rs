//! Much data over one connection, and over the fast path.

use std::time::Instant;

use flannel_common::Counter;
use xtask::lab::{Family, transfer};

use crate::site::{Site, skipped};

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
    let counts = site.during(1, || transfer(from, to, site.pod_ip(2, Family::V4), (4 << 30) + (64 << 20)).unwrap());
    println!("4.06 GiB in {:.1?}; {}", start.elapsed(), counts.shown());
    let (fast, slow) = (counts.get(Counter::EgressFast), counts.tunnel.1);
    assert!(fast > 50_000 && slow * 20 < fast, "{}", counts.shown());
    for number in [1, 2] {
        assert_eq!(site.invalid(number), 0);
    }
    site.alive();
}
