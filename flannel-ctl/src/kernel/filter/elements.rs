//! Elements of the guard's sets, straight over nfnetlink: one join costs one small message,
//! where starting `nft` costs more than ten milliseconds.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::NLM_F_CREATE;

use super::{
    object::{INET, field, message},
    socket::{Socket, request},
};
use crate::{
    filter::{
        guard::{Entry, set},
        nft::TABLE,
    },
    kernel::netlink::{
        refusal::Refusal,
        wire::{Request, attributes},
    },
    model::Family,
};

/// `NFTA_SET_ELEM_LIST_*`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY`, `NFTA_DATA_VALUE`.
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// An attribute's length has 16 bits, and an IPv6 element takes 44 bytes.
const PER_MESSAGE: usize = 1000;

/// Both sets.
pub(super) fn read(socket: &mut Socket) -> Result<BTreeSet<Entry>, Refusal> {
    let mut all = BTreeSet::new();
    for family in Family::ALL {
        all.extend(socket.dump(list(message::GETSETELEM, 0, family), |payload, found| {
            let elements = field(payload, LIST_ELEMENTS).unwrap_or_default();
            found.extend(attributes(elements, 0).filter_map(|(_, element)| decode(element)));
        })?);
    }
    Ok(all)
}

/// Adds and removes, as one transaction. Adding what is there is fine; removing what is not
/// fails (`ENOENT`) and changes nothing.
pub(super) fn change(socket: &mut Socket, add: &[Entry], remove: &[Entry]) -> Result<(), Refusal> {
    let mut requests = Vec::new();
    for family in Family::ALL {
        let of_family =
            |entries: &[Entry]| entries.iter().filter(|entry| entry.family() == family).copied().collect::<Vec<_>>();
        for chunk in of_family(add).chunks(PER_MESSAGE) {
            requests.push(with_elements(list(message::NEWSETELEM, NLM_F_CREATE, family), chunk));
        }
        for chunk in of_family(remove).chunks(PER_MESSAGE) {
            requests.push(with_elements(list(message::DELSETELEM, 0, family), chunk));
        }
    }
    socket.transaction(requests)
}

fn list(message: u16, flags: u16, family: Family) -> Request {
    request(message, flags, INET).text(LIST_TABLE, TABLE).text(LIST_SET, set(family))
}

fn with_elements(list: Request, entries: &[Entry]) -> Request {
    list.nest(LIST_ELEMENTS, |mut list| {
        for entry in entries {
            list = list.nest(ELEMENT, |element| element.nest(ELEMENT_KEY, |key| key.attr(DATA_VALUE, &encode(entry))));
        }
        list
    })
}

/// The lookup's registers: outer source, inner source, both as they are in the packet.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for ip in [entry.outer, entry.inner] {
        match ip {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
    }
    bytes
}

fn decode(element: &[u8]) -> Option<Entry> {
    let (_, key) = attributes(element, 0).find(|(kind, _)| *kind == ELEMENT_KEY)?;
    let (_, value) = attributes(key, 0).find(|(kind, _)| *kind == DATA_VALUE)?;
    let (outer, inner) = value.split_at_checked(value.len() / 2)?;
    let ip = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    };
    Some(Entry { outer: ip(outer)?, inner: ip(inner)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_survive_their_encoding() {
        for (outer, inner) in [("192.0.2.1", "10.244.3.0/24"), ("2001:db8::1", "fd00:0:0:3::/64")] {
            let entry = Entry::new(outer.parse().unwrap(), inner.parse().unwrap()).unwrap();
            let request = with_elements(list(message::NEWSETELEM, 0, entry.family()), &[entry, entry]);
            let elements = field(&request.bytes()[16..], LIST_ELEMENTS).unwrap();
            let read: Vec<_> = attributes(elements, 0).map(|(_, element)| decode(element)).collect();
            assert_eq!(read, [Some(entry), Some(entry)]);
        }
    }

    #[test]
    fn families_do_not_mix() {
        assert_eq!(Entry::new("192.0.2.1".parse().unwrap(), "fd00::/64".parse().unwrap()), None);
    }
}
