//! PURE: who is where on the uplink, as far as notices have told.
//!
//! An address that the kernel forgets is remembered: it may come back with another MAC. But a network has no end of IPv6
//! addresses, most of which never come back, so what was not told of for long is forgotten.

use std::{collections::BTreeMap, mem, net::IpAddr};

use crate::model::Mac;

/// Those told of last, at least so many: more than a network without routers in it has nodes.
const REMEMBERED: usize = 8192;

/// Each address is in one of the two.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    recent: BTreeMap<IpAddr, Mac>,
    /// What was recent when that became too many.
    earlier: BTreeMap<IpAddr, Mac>,
}

impl Neighbours {
    /// Remembers that `ip` is at `mac`. Whether it was elsewhere before.
    pub(super) fn has_moved(&mut self, ip: IpAddr, mac: Mac) -> bool {
        let earlier = self.earlier.remove(&ip);
        let before = self.recent.insert(ip, mac).or(earlier);
        if self.recent.len() > REMEMBERED {
            self.earlier = mem::take(&mut self.recent);
        }
        before.is_some_and(|before| before != mac)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const HERE: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THERE: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn address(n: usize) -> IpAddr {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | n as u128).into()
    }

    #[test]
    fn who_shows_up_elsewhere_has_moved() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.has_moved(address(1), HERE), "nobody knew where it was");
        assert!(!neighbours.has_moved(address(1), HERE));
        assert!(neighbours.has_moved(address(1), THERE));
        assert!(!neighbours.has_moved(address(1), THERE));
        assert!(neighbours.has_moved(address(1), HERE));
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_room_and_displaces_nobody_who_is_told_of() {
        let mut neighbours = Neighbours::default();
        neighbours.has_moved(address(0), HERE);
        for n in 1..=5 * REMEMBERED {
            neighbours.has_moved(address(n), HERE);
            assert!(neighbours.recent.len() + neighbours.earlier.len() <= 2 * (REMEMBERED + 1));
            if n.is_multiple_of(REMEMBERED) {
                assert!(!neighbours.has_moved(address(0), HERE), "{n}");
            }
        }
        assert!(neighbours.has_moved(address(0), THERE));
    }
}
