//! nf_tables objects in netlink messages: which kinds there are, and what all of them say of themselves.

use super::socket::BODY;
use crate::kernel::netlink::wire::{attributes, text};

/// `NFT_MSG_*` of `linux/netfilter/nf_tables.h`.
pub(super) mod message {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;
    pub(crate) const GETOBJ: u16 = 19;
}

/// `NFPROTO_*`.
pub(super) const INET: u8 = 1;
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

/// `NFTA_{TABLE,CHAIN,RULE,SET,OBJ}_TABLE`: the table's name is the first attribute in all of them.
pub(super) const TABLE_NAME: u16 = 1;
/// `NFTA_CHAIN_*`.
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;

/// Value of one attribute.
pub(super) fn field(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(payload, BODY).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Name of the table that an object belongs to.
pub(super) fn table_of(payload: &[u8]) -> String {
    text(field(payload, TABLE_NAME).unwrap_or_default())
}
