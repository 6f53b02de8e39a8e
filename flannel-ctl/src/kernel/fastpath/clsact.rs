//! Programs on interfaces before Linux 6.6: BPF filters of a clsact queueing discipline, known again by their names.
//!
//! The kernel keeps them as it keeps links: they go on without a daemon, and run another program from one packet to
//! the next. Others' filters come first and are left alone.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::programs::tc::TcAttachType;
use nix::errno::Errno;

use super::{FastPathError, Hook, object::Programs};
use crate::{
    kernel::netlink::{
        filter::{self, Direction, Filter},
        qdisc::{self, Qdisc},
        refusal::Refusal,
        socket::Socket,
    },
    model::Place,
};

/// Our filters: hook, interface and the kernel's program number of each.
pub(super) fn filters() -> Result<Vec<(Hook, u32, Option<u32>)>, FastPathError> {
    let mut socket = open()?;
    let mut found = Vec::new();
    for interface in interfaces(&mut socket)? {
        for direction in Direction::BOTH {
            let hooks = ours(&mut socket, interface, direction)?;
            found.extend(hooks.into_iter().map(|(hook, program)| (hook, interface, program)));
        }
    }
    Ok(found)
}

/// Puts our programs on an interface, in place of older ones of ours.
pub(super) fn attach(programs: &Programs, place: Place, interface: u32) -> Result<(), FastPathError> {
    let mut socket = open()?;
    let failed = |refusal| failed("put a BPF filter on", interface, refusal);
    match socket.run(filter::add_clsact(interface)) {
        Err(refusal) if refusal.errno != Errno::EEXIST => return Err(failed(refusal)),
        _ => {}
    }
    for hook in Hook::at(place) {
        put(&mut socket, *hook, interface, programs.fd(*hook)?)?;
    }
    Ok(())
}

/// Has our filter that is there run another program, from one packet to the next.
pub(super) fn replace(hook: Hook, interface: u32, program: BorrowedFd<'_>) -> Result<(), FastPathError> {
    put(&mut open()?, hook, interface, program)
}

fn put(socket: &mut Socket, hook: Hook, interface: u32, program: BorrowedFd<'_>) -> Result<(), FastPathError> {
    let request = filter::put(interface, direction(hook), program.as_raw_fd(), hook.program());
    socket.run(request).map_err(|refusal| failed("put a BPF filter on", interface, refusal))
}

/// Takes our programs off an interface, gone or not, and the queueing discipline if nobody else has a filter there.
pub(super) fn detach(interface: u32) -> Result<(), FastPathError> {
    let mut socket = open()?;
    let failed = |refusal| failed("remove the BPF filters of", interface, refusal);
    let mut others = false;
    for direction in Direction::BOTH {
        let all = list(&mut socket, interface, direction)?;
        others |= all.iter().any(|filter| filter.ours().is_none());
        if all.iter().any(|filter| filter.ours().is_some()) {
            gone(socket.run(filter::delete(interface, direction))).map_err(failed)?;
        }
    }
    if others { Ok(()) } else { gone(socket.run(filter::delete_clsact(interface))).map_err(failed) }
}

/// Takes them off all interfaces. How many interfaces that were.
pub(super) fn remove() -> Result<usize, FastPathError> {
    let mut interfaces: Vec<u32> = filters()?.into_iter().map(|(_, interface, _)| interface).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    interfaces.iter().try_for_each(|interface| detach(*interface))?;
    Ok(interfaces.len())
}

const fn direction(hook: Hook) -> Direction {
    match hook.direction() {
        TcAttachType::Egress => Direction::Egress,
        TcAttachType::Ingress | TcAttachType::Custom(_) => Direction::Ingress,
    }
}

fn ours(socket: &mut Socket, interface: u32, direction: Direction) -> Result<Vec<(Hook, Option<u32>)>, FastPathError> {
    let filters = list(socket, interface, direction)?;
    Ok(filters.iter().filter_map(|filter| Some((Hook::named(filter.ours()?)?, filter.program))).collect())
}

fn list(socket: &mut Socket, interface: u32, direction: Direction) -> Result<Vec<Filter>, FastPathError> {
    match socket.dump(filter::list(interface, direction), Filter::read) {
        Err(refusal) if is_gone(&refusal) => Ok(Vec::new()),
        listed => listed.map_err(|refusal| failed("list the filters of", interface, refusal)),
    }
}

/// Interfaces with such a queueing discipline.
fn interfaces(socket: &mut Socket) -> Result<Vec<u32>, FastPathError> {
    let qdiscs = socket.dump(qdisc::list(), Qdisc::read);
    let qdiscs = qdiscs.map_err(|refusal| failed("list the queueing disciplines of", 0, refusal))?;
    Ok(qdiscs.into_iter().filter(Qdisc::is_ingress).map(|qdisc| qdisc.interface).collect())
}

fn open() -> Result<Socket, FastPathError> {
    Socket::open().map_err(|refusal| failed("open a netlink socket for", 0, refusal))
}

fn gone(outcome: Result<(), Refusal>) -> Result<(), Refusal> {
    match outcome {
        Err(refusal) if is_gone(&refusal) => Ok(()),
        outcome => outcome,
    }
}

fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::ENODEV | Errno::ENOENT | Errno::EINVAL)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(what: &'static str, interface: u32, refusal: Refusal) -> FastPathError {
    let cause = refusal.errno.into();
    FastPathError::Filter { what, interface, answer: refusal.to_string(), cause }
}
