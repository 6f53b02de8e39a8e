//! Somebody else's BPF program on a hook: counts what it sees, and decides alike over all of it.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::{libc, net::if_::if_nametoindex};
use xtask::lab::Netns;

/// `enum bpf_cmd` and `BPF_TCX_INGRESS` with its neighbour (`linux/bpf.h`).
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const TCX_INGRESS: u32 = 46;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

/// What its program returns for each packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Whoever comes behind it shall decide.
    Next = -1,
    /// Nobody behind it is asked.
    Pass = 0,
    Drop = 2,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    First,
    /// What one gets who asks for nothing: behind those that are there.
    Unasked,
}

/// Attached as long as the value lives.
pub(crate) struct Stranger {
    counts: OwnedFd,
    _link: OwnedFd,
}

impl Stranger {
    pub(crate) fn attach(netns: &Netns, interface: &str, hook: Hook, order: Order, verdict: Verdict) -> Self {
        let counts = call(MAP_CREATE, &[2_u32, 4, 8, 1, 0]).unwrap();
        let program = load(&counts, verdict);
        let index = netns.enter(|| if_nametoindex(interface)).unwrap().unwrap();
        let attach_type = TCX_INGRESS + u32::from(matches!(hook, Hook::Egress));
        let before = if matches!(order, Order::First) { 1 << 3 } else { 0 };
        let link = [number(&program), index, attach_type, before, 0, 0, 0, 0];
        let link = netns.enter(|| call(LINK_CREATE, &link)).unwrap();
        Self { counts, _link: link.unwrap_or_else(|error| panic!("{interface} {hook:?}: {error}")) }
    }

    /// How many packets have come by.
    pub(crate) fn seen(&self) -> u64 {
        let (key, mut count) = (0_u32, 0_u64);
        let (key, value) = (&raw const key as u64, &raw mut count as u64);
        let attribute = [u64::from(number(&self.counts)), key, value, 0];
        // SAFETY: a key of four octets is read, a value of eight written; both outlive the call.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP, attribute.as_ptr(), size_of_val(&attribute)) };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        count
    }
}

/// `counts[0] += 1; return verdict`
fn load(counts: &OwnedFd, verdict: Verdict) -> OwnedFd {
    let instruction = |code: u8, registers: u8, offset: i16, value: i32| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        u64::from_le_bytes([code, registers, low, high, a, b, c, d])
    };
    let instructions = [
        instruction(0xb7, 1, 0, 0),
        instruction(0x63, 0x1a, -4, 0),
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 2, 0, -4),
        instruction(0x18, 0x11, 0, counts.as_raw_fd()),
        0,
        instruction(0x85, 0, 0, 1),
        instruction(0x15, 0, 2, 0),
        instruction(0xb7, 1, 0, 1),
        instruction(0xdb, 0x10, 0, 0),
        instruction(0xb7, 0, 0, verdict as i32),
        instruction(0x95, 0, 0, 0),
    ];
    let license = c"GPL";
    let kind_and_length = 3 | (instructions.len() as u64) << 32;
    call(PROG_LOAD, &[kind_and_length, instructions.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0]).unwrap()
}

fn number(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap()
}

fn call<T>(command: libc::c_long, attribute: &[T]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the attribute and what it points to, which outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(answer).unwrap()) })
}
