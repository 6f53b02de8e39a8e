//! Queueing disciplines: `tc qdisc`.

use nix::libc;

use super::wire::{Request, attributes, text, u32_at};

/// Length of `struct tcmsg` (`linux/rtnetlink.h`).
pub(super) const BODY: usize = 20;
/// `TCA_KIND` (`linux/rtnetlink.h`).
pub(super) const KIND: u16 = 1;

/// One queueing discipline of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    pub interface: u32,
    pub kind: String,
}

impl Qdisc {
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let interface = interface(payload)?;
        let kind = attributes(payload, BODY).find(|(kind, _)| *kind == KIND).map(|(_, value)| text(value))?;
        Some(Self { interface, kind })
    }

    /// Holds filters for what comes in.
    pub fn is_ingress(&self) -> bool {
        matches!(self.kind.as_str(), "ingress" | "clsact")
    }
}

/// Whose queueing discipline or filter a message tells of.
pub(crate) fn interface(payload: &[u8]) -> Option<u32> {
    u32_at(payload, 4)
}

/// `tc qdisc show`
pub(crate) fn list() -> Request {
    Request::new(libc::RTM_GETQDISC, 0, &[0; BODY])
}
