//! flannel's network config, as meant: defaults filled in, rules checked.

use ipnet::IpNet;

use super::{Backend, Family};

/// The cluster-wide network. At least one family is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub v4: Option<AddressRange>,
    pub v6: Option<AddressRange>,
    /// `EnableNFTables`: flannel's wish for the packet filter's flavour; we look at the host.
    pub nftables: bool,
    pub backend: Backend,
}

/// One family's range and how it is cut into subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Host bits are zero.
    pub network: IpNet,
    /// Prefix length of every subnet.
    pub subnet_len: u8,
    /// First and last subnet that may be leased, both with `subnet_len`, inclusive.
    pub min: IpNet,
    pub max: IpNet,
}

impl Network {
    pub fn range(&self, family: Family) -> Option<AddressRange> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub fn families(&self) -> impl Iterator<Item = Family> + use<'_> {
        Family::ALL.into_iter().filter(|family| self.range(*family).is_some())
    }
}
