//! What one node leases: a range per enabled family, and its etcd key.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Family;

/// The range or ranges of one lease. At least one family is present, host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

/// Why a text is not a subnet key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not of the form 10.5.48.0-24, 10.5.48.0-24&fc00::-64 or fc00::-64")]
    Form,
    #[error("{0} has bits set beyond its prefix length")]
    HostBits(IpNet),
    #[error("longer than {} bytes", Subnet::MAX_KEY)]
    TooLong,
}

impl Subnet {
    /// A key longer than this cannot be one of ours: two addresses, two lengths, separators.
    pub const MAX_KEY: usize = 80;

    /// Host bits are cleared; `None` when both families are absent.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Option<Self> {
        if v4.is_none() && v6.is_none() {
            return None;
        }
        Some(Self { v4: v4.map(|net| net.trunc()), v6: v6.map(|net| net.trunc()) })
    }

    pub fn v4(&self) -> Option<Ipv4Net> {
        self.v4
    }

    pub fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    pub fn net(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.v4.map(IpNet::V4),
            Family::V6 => self.v6.map(IpNet::V6),
        }
    }

    /// The ranges that are present, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        [self.v4.map(IpNet::V4), self.v6.map(IpNet::V6)].into_iter().flatten()
    }

    /// The range's base address, which flannel gives to the VXLAN device and uses as the
    /// route's gateway.
    pub fn base(&self, family: Family) -> Option<IpAddr> {
        self.net(family).map(|net| net.addr())
    }

    /// Some address belongs to both, in either family.
    pub fn overlaps(&self, other: &Self) -> bool {
        let v4 = matches!((self.v4, other.v4), (Some(a), Some(b)) if a.contains(&b) || b.contains(&a));
        let v6 = matches!((self.v6, other.v6), (Some(a), Some(b)) if a.contains(&b) || b.contains(&a));
        v4 || v6
    }

    /// The last part of the etcd key, as flannel writes it (`pkg/subnet/subnet.go`):
    /// `10.5.48.0-24`, with `&fc00:5:0:3e::-64` behind it in dual stack. An IPv6-only lease,
    /// which flannel's etcd mode does not know, is the second half alone.
    pub fn key(&self) -> String {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => format!("{}-{}&{}-{}", v4.addr(), v4.prefix_len(), v6.addr(), v6.prefix_len()),
            (Some(v4), None) => format!("{}-{}", v4.addr(), v4.prefix_len()),
            (None, Some(v6)) => format!("{}-{}", v6.addr(), v6.prefix_len()),
            (None, None) => unreachable!("a subnet has a family"),
        }
    }

    /// Reads what [`Self::key`] writes. Stricter than flannel's own expression, which is
    /// anchored at the end only and lets host bits through.
    pub fn from_key(key: &str) -> Result<Self, KeyError> {
        if key.len() > Self::MAX_KEY {
            return Err(KeyError::TooLong);
        }
        let (first, second) = match key.split_once('&') {
            Some((first, second)) => (first, Some(second)),
            None => (key, None),
        };
        let subnet = match second {
            Some(second) => Self { v4: Some(parse_v4(first)?), v6: Some(parse_v6(second)?) },
            None if first.contains(':') => Self { v4: None, v6: Some(parse_v6(first)?) },
            None => Self { v4: Some(parse_v4(first)?), v6: None },
        };
        for net in subnet.nets() {
            if net.addr() != net.network() {
                return Err(KeyError::HostBits(net));
            }
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4},{v6}"),
            (Some(v4), None) => write!(f, "{v4}"),
            (None, Some(v6)) => write!(f, "{v6}"),
            (None, None) => unreachable!("a subnet has a family"),
        }
    }
}

fn parse_v4(text: &str) -> Result<Ipv4Net, KeyError> {
    let (addr, len) = split(text)?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| KeyError::Form)?;
    Ipv4Net::new(addr, len).map_err(|_| KeyError::Form)
}

fn parse_v6(text: &str) -> Result<Ipv6Net, KeyError> {
    let (addr, len) = split(text)?;
    let addr: Ipv6Addr = addr.parse().map_err(|_| KeyError::Form)?;
    Ipv6Net::new(addr, len).map_err(|_| KeyError::Form)
}

fn split(text: &str) -> Result<(&str, u8), KeyError> {
    let (addr, len) = text.rsplit_once('-').ok_or(KeyError::Form)?;
    if !len.bytes().all(|b| b.is_ascii_digit()) {
        return Err(KeyError::Form);
    }
    Ok((addr, len.parse().map_err(|_| KeyError::Form)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_as_flannel_writes_them() {
        for key in ["10.5.48.0-24", "10.5.11.0-24&fc00:5:0:3e::-64", "fc00:5:0:3e::-64"] {
            assert_eq!(Subnet::from_key(key).unwrap().key(), key);
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        for key in [
            "",
            "-",
            "10.5.48.0",
            "10.5.48.0-",
            "10.5.48.0-33",
            "10.5.48.0-24-24",
            "010.5.48.0-24",
            "10.5.48.0--1",
            "10.5.48.0-+24",
            "10.5.48.0-24&",
            "10.5.48.0-24&zz",
            "x10.5.48.0-24",
            "10.5.48.0-24&fc00::-129",
            "fc00::-64&10.5.48.0-24",
            "10.5.48.\u{661}-24",
            "10.5.48.77-24",
            "10.5.48.0-24&fc00::1-64",
        ] {
            assert!(Subnet::from_key(key).is_err(), "{key}");
        }
        assert_eq!(Subnet::from_key(&"1".repeat(4096)), Err(KeyError::TooLong));
    }

    proptest! {
        #[test]
        fn every_subnet_survives_its_key(v4 in any::<u32>(), len4 in 0u8..=32, v6 in any::<u128>(), len6 in 0u8..=128, kind in 0..3) {
            let v4 = (kind != 1).then(|| Ipv4Net::new(v4.into(), len4).unwrap());
            let v6 = (kind != 0).then(|| Ipv6Net::new(v6.into(), len6).unwrap());
            let subnet = Subnet::new(v4, v6).unwrap();
            prop_assert_eq!(Subnet::from_key(&subnet.key()), Ok(subnet));
        }

        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ignored_on_purpose = Subnet::from_key(&text).is_ok();
        }
    }
}
