//! The free subnets of one address range.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{AddressRange, Family};

/// Among how many candidates the lot decides. flannel's number: enough that nodes which start
/// together seldom meet, few enough that subnets stay close together.
const CANDIDATES: usize = 100;

/// The first free subnets of the range, in order, at most [`CANDIDATES`]. The effort depends on
/// how many are taken, not on how large the range is.
pub(super) fn candidates(range: &AddressRange, taken: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let family = Family::of_net(&range.network);
    let (first, last) = bounds(range);
    let mut taken: Vec<(u128, u128)> = taken
        .filter(|net| Family::of_net(net) == family)
        .map(|net| (index(net.network(), range.subnet_len), index(net.broadcast(), range.subnet_len)))
        .filter(|(low, high)| *high >= first && *low <= last)
        .collect();
    taken.sort_unstable();

    let mut free = Vec::new();
    let mut next = first;
    for (low, high) in taken.into_iter().chain([(u128::MAX, u128::MAX)]) {
        while next < low && next <= last && free.len() < CANDIDATES {
            free.extend(subnet_at(family, next, range.subnet_len));
            next += 1;
        }
        if free.len() == CANDIDATES || next > last {
            break;
        }
        next = next.max(high.saturating_add(1));
    }
    free
}

/// Numbers of the first and the last subnet, counted in units of the subnet size.
pub(super) fn bounds(range: &AddressRange) -> (u128, u128) {
    (index(range.min.addr(), range.subnet_len), index(range.max.addr(), range.subnet_len))
}

fn index(addr: IpAddr, len: u8) -> u128 {
    let (bits, width) = match addr {
        IpAddr::V4(addr) => (u128::from(addr.to_bits()), 32),
        IpAddr::V6(addr) => (addr.to_bits(), 128),
    };
    bits.checked_shr(width - u32::from(len)).unwrap_or(0)
}

fn subnet_at(family: Family, index: u128, len: u8) -> Option<IpNet> {
    let addr: IpAddr = match family {
        Family::V4 => IpAddr::V4(u32::try_from(index << (32 - len)).ok()?.into()),
        Family::V6 => IpAddr::V6(index.checked_shl(128 - u32::from(len))?.into()),
    };
    IpNet::new(addr, len).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(network: &str, len: u8, min: &str, max: &str) -> AddressRange {
        AddressRange {
            network: network.parse().unwrap(),
            subnet_len: len,
            min: IpNet::new(min.parse().unwrap(), len).unwrap(),
            max: IpNet::new(max.parse().unwrap(), len).unwrap(),
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn skips_what_overlaps_whatever_its_length() {
        let range = range("10.5.0.0/16", 24, "10.5.1.0", "10.5.6.0");
        let taken = nets(&["10.5.2.128/25", "10.5.4.0/23", "10.9.0.0/16", "fc00::/64", "10.5.2.0/25"]);
        assert_eq!(candidates(&range, taken.into_iter()), nets(&["10.5.1.0/24", "10.5.3.0/24", "10.5.6.0/24"]));
    }

    #[test]
    fn nothing_left() {
        let range = range("10.5.0.0/16", 24, "10.5.1.0", "10.5.2.0");
        assert_eq!(candidates(&range, nets(&["10.5.0.0/16"]).into_iter()), vec![]);
        assert_eq!(candidates(&range, nets(&["10.5.1.0/24", "10.5.2.0/24"]).into_iter()), vec![]);
    }

    #[test]
    fn the_last_subnets_of_each_address_space() {
        let v4 = range("255.255.0.0/16", 24, "255.255.254.0", "255.255.255.0");
        assert_eq!(candidates(&v4, nets(&["255.255.255.0/24"]).into_iter()), nets(&["255.255.254.0/24"]));
        let v6 = range(
            "ffff::/16",
            126,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc",
        );
        assert_eq!(candidates(&v6, std::iter::empty()).len(), 2);
    }

    #[test]
    fn a_huge_range_costs_no_more_than_what_is_taken() {
        let range = range("fc00::/16", 112, "fc00::1:0", "fc00:ffff:ffff:ffff:ffff:ffff:ffff:0");
        let taken = (1..50_000u128).map(|i| IpNet::new(IpAddr::V6(((0xfc00 << 112) | (i << 16)).into()), 112).unwrap());
        let free = candidates(&range, taken.chain(nets(&["fc00:0:8000::/33"])));
        assert_eq!(free.len(), CANDIDATES);
        assert_eq!(free[0], "fc00::c350:0/112".parse().unwrap());
    }

    proptest! {
        #[test]
        fn never_overlaps_and_misses_nothing(taken in proptest::collection::vec((0u32..0x400, 20u8..=32), 0..40)) {
            let range = range("10.0.0.0/22", 28, "10.0.0.16", "10.0.3.240");
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(low, len)| IpNet::new(IpAddr::V4((0x0a00_0000 | low).into()), len).unwrap().trunc())
                .collect();
            let by_hand: Vec<IpNet> = (1..64u32)
                .map(|i| IpNet::new(IpAddr::V4((0x0a00_0000 | (i << 4)).into()), 28).unwrap())
                .filter(|net| !taken.iter().any(|t| t.contains(net) || net.contains(t)))
                .collect();
            prop_assert_eq!(candidates(&range, taken.into_iter()), by_hand);
        }
    }
}
