//! Several datagrams to a call, each on its own: for kernels that do not cut a train.

use std::{
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc};

use super::{Address, Control};

/// Most datagrams that one [`send_many`] takes.
const MOST: usize = 64;

/// Whether the kernel, and whoever filters system calls, has `sendmmsg` and `recvmmsg`; moves nothing.
pub(in super::super) fn has_batches(socket: BorrowedFd<'_>) -> bool {
    let socket = socket.as_raw_fd();
    // SAFETY: no message is given, and none is looked at.
    let (sent, received) = unsafe {
        (
            libc::sendmmsg(socket, ptr::null_mut(), 0, 0),
            libc::recvmmsg(socket, ptr::null_mut(), 0, libc::MSG_DONTWAIT as _, ptr::null_mut()),
        )
    };
    sent == 0 && received == 0
}

/// Sends datagrams to one address, `each` pieces to a datagram; how many left. An error is that of the first.
pub(in super::super) fn send_many(
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    pieces: &[IoSlice<'_>],
    each: usize,
    tos: u8,
) -> io::Result<usize> {
    let (address, length) = Address::new(to);
    let mut control = Control([0; 72]);
    let used = control.put_tos(0, to, tos);
    // SAFETY: an mmsghdr is pointers and numbers; all zeroes is one.
    let mut messages: [libc::mmsghdr; MOST] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (message, datagram) in messages.iter_mut().zip(pieces.chunks(each)) {
        let header = &mut message.msg_hdr;
        header.msg_name = (&raw const address).cast_mut().cast();
        header.msg_namelen = length;
        // An IoSlice is an iovec, as std promises; the kernel only reads what it points to.
        header.msg_iov = datagram.as_ptr().cast_mut().cast();
        header.msg_iovlen = datagram.len() as _;
        if used != 0 {
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = used as _;
        }
        count += 1;
    }
    // SAFETY: the first `count` messages point to name, pieces and control with the lengths of each, and all of it outlives the
    // call; the kernel writes to their lengths alone, which are ours.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_NOSIGNAL as _) };
    Ok(Errno::result(sent)?.cast_unsigned() as usize)
}
