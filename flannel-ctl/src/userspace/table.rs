//! Which node has which addresses. One writer, readers without locks.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use crate::model::Forward;

/// Range to node, shared by who knows the leases and who moves packets.
///
/// A change is a new generation. Readers hold a generation and look, with one atomic load, whether it is still the
/// newest; only the first look after a change takes a lock, for as long as a pointer takes to be copied.
#[derive(Debug, Default)]
pub struct Table {
    generation: AtomicU64,
    current: Mutex<Arc<Ranges>>,
}

/// One generation: a hash table for each prefix length that is in use, longest first.
#[derive(Clone, Debug, Default)]
struct Ranges {
    by_length: Vec<(u8, HashMap<u128, Entry>)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    range: IpNet,
    /// The range as bits: quicker to compare.
    network: u128,
    mask: u128,
    forward: Forward,
}

impl Table {
    /// Puts ranges in, or takes them out, all at once.
    pub fn apply(&self, changes: impl IntoIterator<Item = (IpNet, Option<Forward>)>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Ranges::clone(&current);
        for (range, forward) in changes {
            next.set(range.trunc(), forward);
        }
        *current = Arc::new(next);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// All that it has.
    pub fn entries(&self) -> BTreeMap<IpNet, Forward> {
        let current = self.current();
        current.by_length.iter().flat_map(|(_, ranges)| ranges.values()).map(|e| (e.range, e.forward)).collect()
    }

    /// Eyes on it for one thread.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let generation = self.generation.load(Ordering::Acquire);
        Reader { ranges: self.current(), generation, last: None, table: Arc::clone(self) }
    }

    fn current(&self) -> Arc<Ranges> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ranges {
    fn set(&mut self, range: IpNet, forward: Option<Forward>) {
        let length = mapped_length(&range);
        let at = self.by_length.binary_search_by(|(other, _)| length.cmp(other));
        let network = bits(range.addr());
        let entry = |forward| Entry { range, network, mask: mask(length), forward };
        match (at, forward) {
            (Ok(at), Some(forward)) => drop(self.by_length[at].1.insert(network, entry(forward))),
            (Err(at), Some(forward)) => {
                self.by_length.insert(at, (length, HashMap::from([(network, entry(forward))])));
            }
            (Ok(at), None) => {
                self.by_length[at].1.remove(&network);
                if self.by_length[at].1.is_empty() {
                    self.by_length.remove(at);
                }
            }
            (Err(_), None) => {}
        }
    }

    fn find(&self, address: u128) -> Option<Entry> {
        self.by_length.iter().find_map(|(length, ranges)| ranges.get(&(address & mask(*length))).copied())
    }
}

/// A [`Table`] as one thread sees it.
#[derive(Debug)]
pub struct Reader {
    table: Arc<Table>,
    ranges: Arc<Ranges>,
    generation: u64,
    /// What was found last: trains of packets go the same way.
    last: Option<Entry>,
}

impl Reader {
    /// Takes up what has changed. Once for each batch of packets is enough.
    pub fn refresh(&mut self) {
        let newest = self.table.generation.load(Ordering::Acquire);
        if newest != self.generation {
            self.ranges = self.table.current();
            self.generation = newest;
            self.last = None;
        }
    }

    /// Where packets to this address go.
    #[inline]
    pub fn forward(&mut self, destination: IpAddr) -> Option<Forward> {
        let destination = bits(destination);
        if let Some(last) = self.last
            && destination & last.mask == last.network
        {
            // A longer range may lie inside of a remembered one, but leases do not overlap.
            return Some(last.forward);
        }
        let found = self.ranges.find(destination)?;
        self.last = Some(found);
        Some(found.forward)
    }

    /// Whether the node with this address on the wire may send from that inner address.
    #[inline]
    pub fn may_send(&mut self, inner: IpAddr, outer: IpAddr) -> bool {
        self.forward(inner).is_some_and(|forward| forward.public == outer)
    }
}

/// Both families in one key space: IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mapped_length(range: &IpNet) -> u8 {
    match range {
        IpNet::V4(range) => range.prefix_len() + 96,
        IpNet::V6(range) => range.prefix_len(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mac;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn node(public: &str) -> Forward {
        Forward { public: ip(public), mac: Mac::ZERO }
    }

    #[test]
    fn addresses_find_their_node_and_only_theirs() {
        let table = Arc::new(Table::default());
        table.apply([
            (net("10.244.5.0/24"), Some(node("192.0.2.5"))),
            (net("10.244.6.0/23"), Some(node("192.0.2.6"))),
            (net("fd00:5::/64"), Some(node("2001:db8::5"))),
        ]);
        let mut reader = table.reader();
        for (address, public) in [
            ("10.244.5.0", Some("192.0.2.5")),
            ("10.244.5.255", Some("192.0.2.5")),
            ("10.244.7.1", Some("192.0.2.6")),
            ("10.244.4.255", None),
            ("10.244.8.0", None),
            ("fd00:5::ffff", Some("2001:db8::5")),
            ("fd00:5:0:1::", None),
            ("::ffff:10.1.1.1", None),
        ] {
            assert_eq!(reader.forward(ip(address)), public.map(node), "{address}");
        }
        assert!(reader.may_send(ip("10.244.5.9"), ip("192.0.2.5")));
        assert!(!reader.may_send(ip("10.244.5.9"), ip("192.0.2.6")), "leased by another node");
        assert!(!reader.may_send(ip("10.99.0.1"), ip("192.0.2.5")), "leased by nobody");
    }

    #[test]
    fn readers_see_a_change_as_a_whole_once_they_look() {
        let table = Arc::new(Table::default());
        table.apply([(net("10.244.5.0/24"), Some(node("192.0.2.5")))]);
        let mut reader = table.reader();
        assert_eq!(reader.forward(ip("10.244.5.1")), Some(node("192.0.2.5")));
        table.apply([(net("10.244.5.0/24"), Some(node("192.0.2.7"))), (net("10.244.9.0/24"), Some(node("192.0.2.9")))]);
        assert_eq!(reader.forward(ip("10.244.9.1")), None, "the old generation");
        reader.refresh();
        assert_eq!(reader.forward(ip("10.244.5.1")), Some(node("192.0.2.7")));
        assert_eq!(reader.forward(ip("10.244.9.1")), Some(node("192.0.2.9")));
        table.apply([(net("10.244.5.0/24"), None), (net("10.244.9.0/24"), None), (net("10.0.0.0/8"), None)]);
        reader.refresh();
        assert_eq!(reader.forward(ip("10.244.5.1")), None);
        assert!(table.entries().is_empty());
    }
}
