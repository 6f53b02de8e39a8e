//! Listening to what others do to the kernel.

use std::{io, thread};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use socket2::{SockFilter, SockRef};

use super::{
    KernelError, Notice,
    attend::{self, Hearing, attend},
    linux::explain,
    netlink::{
        address::Address,
        channel::grow_receive_buffer,
        link::Link,
        neighbour::Neighbour,
        nexthop::{self, Nexthop},
        qdisc,
        refusal::Refusal,
        route::Entry,
        wire::{Message, messages},
    },
};

/// `RTNLGRP_*` of `linux/rtnetlink.h`: links, neighbours, traffic control, addresses and routes of both families.
const GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];
/// `RTNLGRP_NEXTHOP`, Linux 5.3.
const NEXTHOP_GROUP: u32 = 32;
/// A burst of some ten thousand notices; the kernel counts about 1 KB each.
const RECEIVE_BUFFER: usize = 32 << 20;

/// Subscribes now, then tells `each` of every notice from a thread of its own, until that
/// returns `false`. A socket that fails is replaced by another. `ignore`: the port of the socket whose own doings are not worth telling
/// ([`super::linux::LinuxKernel::port`]); 0 is none.
pub fn spawn(
    ignore: u32,
    each: impl FnMut(Notice) -> bool + Send + 'static,
) -> Result<thread::JoinHandle<()>, KernelError> {
    let attempt = |refusal: Refusal| explain("subscribe to the kernel's notices", &refusal, None);
    let socket = subscribe(ignore).map_err(attempt)?;
    let open = move || subscribe(ignore).map_err(|refusal| attempt(refusal).to_string());
    let listen = move |socket: &Socket, each: &mut _| listen(socket, ignore, each);
    let work = move || attend(socket, each, open, listen, tell, attend::PAUSE);
    let spawned = thread::Builder::new().name("notices".into()).spawn(work);
    spawned.map_err(|error| attempt(error.into()))
}

fn subscribe(ignore: u32) -> Result<Socket, Refusal> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
    if ignore != 0
        && let Err(error) = drop_in_kernel(&socket, ignore)
    {
        tracing::debug!(%error, "own notices are dropped by us instead of by the kernel");
    }
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    match socket.add_membership(NEXTHOP_GROUP) {
        // No nexthop objects in this kernel, so nothing to hear of them.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        joined => joined?,
    }
    Ok(socket)
}

fn tell(each: &mut impl FnMut(Notice) -> bool, hearing: Hearing) -> bool {
    match hearing {
        Hearing::Deaf(why) => each(Notice::Deaf(why)),
        Hearing::Again => each(Notice::Overflow),
    }
}

/// Until nobody cares any more, or something that the kernel does not document happens.
fn listen(socket: &Socket, ignore: u32, each: &mut impl FnMut(Notice) -> bool) -> Option<io::Error> {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {
                for message in messages(&buffer) {
                    if ignore != 0 && message.port == ignore {
                        continue;
                    }
                    if let Some(notice) = read(&message)
                        && !each(notice)
                    {
                        return None;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                if !each(Notice::Overflow) {
                    return None;
                }
            }
            Err(error) => return Some(error),
        }
    }
}

fn read(message: &Message<'_>) -> Option<Notice> {
    let payload = message.payload;
    let replaced = message.flags & netlink_packet_core::NLM_F_REPLACE != 0;
    Some(match message.kind {
        kind @ (libc::RTM_NEWLINK | libc::RTM_DELLINK) => {
            Notice::Link { gone: kind == libc::RTM_DELLINK, link: Link::read(payload)? }
        }
        kind @ (libc::RTM_NEWADDR | libc::RTM_DELADDR) => {
            Notice::Address { gone: kind == libc::RTM_DELADDR, address: Address::read(payload)? }
        }
        kind @ (libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH) => {
            Notice::Neighbour { gone: kind == libc::RTM_DELNEIGH, neighbour: Neighbour::read(payload)? }
        }
        kind @ (libc::RTM_NEWROUTE | libc::RTM_DELROUTE) => {
            Notice::Route { gone: kind == libc::RTM_DELROUTE, replaced, route: Entry::read(payload)? }
        }
        kind @ (nexthop::RTM_NEWNEXTHOP | nexthop::RTM_DELNEXTHOP) => {
            Notice::Nexthop { gone: kind == nexthop::RTM_DELNEXTHOP, nexthop: Nexthop::read(payload)? }
        }
        libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => {
            Notice::TrafficControl { interface: qdisc::interface(payload)? }
        }
        _ => return None,
    })
}

/// Ten thousand peers are forty thousand echoes of our own changes: the kernel drops them
/// before they take room in the receive buffer.
fn drop_in_kernel(socket: &Socket, port: u32) -> io::Result<()> {
    // Classic BPF loads in network order; nlmsg_pid is in ours. A notice is one message.
    let port = u32::from_be_bytes(port.to_ne_bytes());
    let op = |code: u32, jt: u8, jf: u8, k: u32| {
        SockFilter::new(u16::try_from(code).expect("BPF codes have 16 bits"), jt, jf, k)
    };
    SockRef::from(socket).attach_filter(&[
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ])
}
