//! Traffic filters of an interface: `tc filter`, as far as BPF programs go.

use nix::{errno::Errno, libc};

use super::{
    qdisc::{BODY, KIND},
    refusal::Refusal,
    socket::Socket,
    wire::{Put, Request, attributes, text, u32_at},
};

/// `TC_H_CLSACT` with its queueing discipline's handle, and its two hooks (`linux/pkt_sched.h`).
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// `TCA_OPTIONS` (`linux/rtnetlink.h`).
const OPTIONS: u16 = 2;
/// `TCA_BPF_*`, and the flag for programs whose answer is the verdict (`linux/pkt_cls.h`).
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;
/// Behind everybody who takes what `tc` gives, which counts down from 49152.
const PRIORITY: u32 = 60_888;
const HANDLE: u32 = 1;
/// What the names of our filters begin with.
const PREFIX: &str = "flannel-ctl/";

/// Which packets a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => INGRESS,
            Self::Egress => EGRESS,
        }
    }
}

/// One filter, of whichever kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of a BPF one; ours is the program's name in the object.
    pub(crate) name: Option<String>,
    /// The kernel's number of the program.
    pub(crate) program: Option<u32>,
}

impl Filter {
    /// Reads an `RTM_NEWTFILTER`. What only says that there are filters of a kind is left out.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        if u32_at(payload, 8)? == 0 {
            return None;
        }
        let mut filter = Self { name: None, program: None };
        for (_, options) in attributes(payload, BODY).filter(|(kind, _)| *kind == OPTIONS) {
            for (kind, value) in attributes(options, 0) {
                match kind {
                    BPF_NAME => filter.name = Some(text(value)),
                    BPF_ID => filter.program = u32_at(value, 0),
                    _ => {}
                }
            }
        }
        Some(filter)
    }

    /// Our program's name, if it is ours.
    pub(crate) fn ours(&self) -> Option<&str> {
        self.name.as_deref()?.strip_prefix(PREFIX)
    }
}

/// `tc filter show dev INDEX ingress|egress`
pub(crate) fn list(interface: u32, direction: Direction) -> Request {
    Request::new(libc::RTM_GETTFILTER, 0, &body(interface, 0, direction.parent(), 0))
}

/// Whether somebody else has a filter there.
pub(crate) fn others(socket: &mut Socket, interface: u32, direction: Direction) -> Result<bool, Refusal> {
    match socket.dump(list(interface, direction), Filter::read) {
        // No such interface, or nothing on it that filters could belong to.
        Err(refusal) if matches!(refusal.errno, Errno::ENODEV | Errno::ENOENT | Errno::EINVAL) => Ok(false),
        filters => Ok(filters?.iter().any(|filter| filter.ours().is_none())),
    }
}

/// `tc qdisc add dev INDEX clsact`
pub(crate) fn add_clsact(interface: u32) -> Request {
    Request::put(libc::RTM_NEWQDISC, Put::New, &body(interface, CLSACT_HANDLE, CLSACT, 0)).text(KIND, "clsact")
}

/// `tc qdisc del dev INDEX clsact`
pub(crate) fn delete_clsact(interface: u32) -> Request {
    Request::new(libc::RTM_DELQDISC, 0, &body(interface, CLSACT_HANDLE, CLSACT, 0)).text(KIND, "clsact")
}

/// `tc filter replace dev INDEX ingress|egress pref PRIORITY handle HANDLE bpf direct-action fd PROGRAM name NAME`. One
/// that is there runs the new program from one packet to the next.
pub(crate) fn put(interface: u32, direction: Direction, program: i32, name: &str) -> Request {
    Request::put(libc::RTM_NEWTFILTER, Put::Replace, &body(interface, HANDLE, direction.parent(), info()))
        .text(KIND, "bpf")
        .nest(OPTIONS, |options| {
            options
                .attr(BPF_FD, &program.to_ne_bytes())
                .text(BPF_NAME, &format!("{PREFIX}{name}"))
                .u32(BPF_FLAGS, DIRECT_ACTION)
        })
}

/// `tc filter del dev INDEX ingress|egress pref PRIORITY handle HANDLE bpf`
pub(crate) fn delete(interface: u32, direction: Direction) -> Request {
    Request::new(libc::RTM_DELTFILTER, 0, &body(interface, HANDLE, direction.parent(), info())).text(KIND, "bpf")
}

/// Priority, and every protocol (`ETH_P_ALL`).
fn info() -> u32 {
    PRIORITY << 16 | u32::from(3_u16.to_be())
}

/// `struct tcmsg` (`linux/rtnetlink.h`)
fn body(interface: u32, handle: u32, parent: u32, info: u32) -> [u8; BODY] {
    let mut body = [0; BODY];
    for (at, field) in [(4, interface), (8, handle), (12, parent), (16, info)] {
        body[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    body
}
