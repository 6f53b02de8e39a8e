//! All of this datapath that the compiler cannot check: system calls that neither std nor nix has in a form that allocates nothing
//! for each call.
//!
//! Every function takes slices and numbers and gives slices and numbers; no pointer leaves this file, and none outlives its call.

#![allow(unsafe_code, reason = "this is the one file for it")]

use std::{
    fs::File,
    io::{self, IoSlice},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc};

mod batch;
mod handed;
mod link;

pub(super) use batch::{has_batches, send_many};
pub(super) use handed::{detach_queue, tun_device};
pub(super) use link::{LinkState, link_state, set_queue_length};

/// Most messages that one [`receive`] takes.
pub(super) const MAX_MESSAGES: usize = 16;

/// Control messages, aligned as the kernel wants them. What we use takes 24 octets each (`CMSG_SPACE` of up to 8).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 72]);

/// A socket address of either family.
#[derive(Clone, Copy)]
#[repr(C)]
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) octets: usize,
    pub(super) from: SocketAddr,
    /// Octets of each datagram but the last, if the kernel made one message of several.
    pub(super) segment: Option<u16>,
    /// Type of service, or traffic class.
    pub(super) tos: u8,
    /// It was longer than the buffer.
    pub(super) cut: bool,
}

/// `TUNGETFEATURES`
pub(super) fn tun_features(tun: &File) -> io::Result<u32> {
    let mut features: libc::c_uint = 0;
    // SAFETY: the request takes a pointer to an unsigned int, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETFEATURES as _, &raw mut features) };
    Errno::result(result)?;
    Ok(features)
}

/// `TUNSETIFF`: attaches to the device of that name, and creates it if there is none.
pub(super) fn tun_attach(tun: &File, device: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = named(device)?;
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(u16::try_from(flags).unwrap_or(u16::MAX).to_ne_bytes());
    // SAFETY: the request takes a pointer to an ifreq with name and flags, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// `TUNSETPERSIST`: the device stays when its last file is closed.
pub(super) fn tun_persist(tun: &File) -> io::Result<()> {
    // SAFETY: the request takes a number.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, 1 as libc::c_ulong) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// `TUNSETOFFLOAD`: what may be left to us of checksums and cutting.
pub(super) fn tun_offload(tun: &File, offload: libc::c_uint) -> io::Result<()> {
    // SAFETY: the request takes a number.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offload)) };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// `TUNSETVNETHDRSZ`
pub(super) fn tun_header_size(tun: &File, octets: libc::c_int) -> io::Result<()> {
    // SAFETY: the request takes a pointer to an int, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const octets) };
    Errno::result(result).map(drop).map_err(Into::into)
}

fn named(device: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is a name of octets and a union of plain data; all zeroes is one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if device.is_empty() || device.len() >= request.ifr_name.len() {
        return Err(Errno::EINVAL.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// `setsockopt` of an int.
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: pointer and size are those of an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size(size_of::<libc::c_int>()))
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// Takes trains of datagrams as one message (`UDP_GRO`).
pub(super) fn set_udp_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Whether the kernel cuts messages (`UDP_SEGMENT`); sets nothing.
pub(super) fn has_udp_segment(socket: BorrowedFd<'_>) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// How many datagrams this socket has not taken for want of room (`SO_MEMINFO`, Linux 4.12).
pub(super) fn overflow(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SK_MEMINFO_DROPS of linux/sock_diag.h
    const DROPS: usize = 8;
    let mut info = [0_u32; 9];
    let mut length = size(size_of_val(&info));
    // SAFETY: pointer and size are those of an array that outlives the call; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(info[DROPS])
}

/// What fits into a datagram's packet on the way to an address, as far as the kernel knows (`IP_MTU`, `IPV6_MTU`).
pub(super) fn path_mtu(local: IpAddr, to: SocketAddr) -> io::Result<u32> {
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(to)?;
    let (level, name) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut length = size(size_of::<libc::c_int>());
    // SAFETY: pointer and size are those of an int that outlives the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut length) };
    Errno::result(result)?;
    Ok(mtu.cast_unsigned())
}

/// Sends what lies in `pieces`, one behind the other: as one datagram, or as datagrams of `segment` octets each.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    pieces: &[IoSlice<'_>],
    segment: Option<u16>,
    tos: u8,
) -> io::Result<usize> {
    let (address, length) = Address::new(to);
    let mut control = Control([0; 72]);
    // SAFETY: a msghdr is pointers and numbers; all zeroes is one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw const address).cast_mut().cast();
    message.msg_namelen = length;
    // An IoSlice is an iovec, as std promises; the kernel only reads what it points to.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
    let mut used = 0;
    if let Some(segment) = segment {
        used += control.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    used += control.put_tos(used, to, tos);
    if used != 0 {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = used as _;
    }
    // SAFETY: name, pieces and control point to what their lengths say, and all of it outlives the call; the kernel writes
    // to none of it.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(result).map(isize::cast_unsigned).map_err(Into::into)
}

/// Takes what has come, without waiting, into as many buffers of `each` octets as `buffer` has room for and `arrivals` asks for; how
/// many. Each message lies at a multiple of `each`.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    each: usize,
    arrivals: &mut [Option<Arrival>],
) -> io::Result<usize> {
    // One at a time is how answers come: room for many would be cleared in vain.
    if arrivals.len() == 1 {
        receive_most::<1>(socket, buffer, each, arrivals)
    } else {
        receive_most::<MAX_MESSAGES>(socket, buffer, each, arrivals)
    }
}

/// As [`receive`], at most so many.
fn receive_most<const MOST: usize>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    each: usize,
    arrivals: &mut [Option<Arrival>],
) -> io::Result<usize> {
    const NOTHING: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    // SAFETY: both are plain data; all zeroes is one of each.
    let (mut messages, mut addresses): ([libc::mmsghdr; MOST], [Address; MOST]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut pieces = [NOTHING; MOST];
    let mut controls = [Control([0; 72]); MOST];
    let wanted = arrivals.len().min(MOST);
    let mut count = 0;
    let places = buffer.chunks_exact_mut(each).zip(&mut pieces).zip(&mut addresses).zip(&mut controls);
    for ((((place, piece), address), control), message) in places.zip(&mut messages).take(wanted) {
        *piece = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
        let header = &mut message.msg_hdr;
        header.msg_name = ptr::from_mut(address).cast();
        header.msg_namelen = size(size_of::<Address>());
        header.msg_iov = ptr::from_mut(piece);
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(control).cast();
        header.msg_controllen = size_of::<Control>() as _;
        count += 1;
    }
    // The first `count` messages point to an address, a piece and a control buffer each, and the piece to its part of `buffer`,
    // all with their lengths; all of it outlives the call, and nothing else refers to it while the kernel writes.
    let came = if count > 1 {
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: as above.
        let came = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags, ptr::null_mut()) };
        Errno::result(came)?.cast_unsigned() as usize
    } else {
        let Some(message) = messages.first_mut() else { return Ok(0) };
        // SAFETY: as above.
        let octets = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message.msg_hdr, libc::MSG_DONTWAIT) };
        message.msg_len = u32::try_from(Errno::result(octets)?).unwrap_or(0);
        1
    };
    for ((message, address), arrival) in messages.iter().zip(&addresses).zip(arrivals).take(came) {
        *arrival = address.get().map(|from| {
            let (segment, tos) = read_control(&message.msg_hdr);
            Arrival {
                octets: (message.msg_len as usize).min(each),
                from,
                segment,
                tos,
                cut: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            }
        });
    }
    Ok(came)
}

/// Size of a train's datagrams, and type of service.
fn read_control(message: &libc::msghdr) -> (Option<u16>, u8) {
    let (mut segment, mut tos) = (None, 0);
    // SAFETY: the kernel has filled the control buffer as far as msg_controllen says, and it is still there: the caller's.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie within the control buffer, which is aligned for them.
        let header = unsafe { *next };
        // SAFETY: as before; its data begins there.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: the kernel puts an int there (`udp_cmsg_recv`, include/linux/udp.h).
                let octets = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                segment = u16::try_from(octets).ok().filter(|octets| *octets != 0);
            }
            // SAFETY: the kernel puts an octet there (`ip_cmsg_recv_tos`, net/ipv4/ip_sockglue.c).
            (libc::IPPROTO_IP, libc::IP_TOS) => tos = unsafe { data.read() },
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // SAFETY: the kernel puts an int there (`ip6_datagram_recv_common_ctl`, net/ipv6/datagram.c).
                let class = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                tos = u8::try_from(class).unwrap_or(0);
            }
            _ => {}
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (segment, tos)
}

impl Control {
    /// The type of service, if it is not the default; how many octets it takes.
    fn put_tos(&mut self, at: usize, to: SocketAddr, tos: u8) -> usize {
        let (level, name) = match to {
            _ if tos == 0 => return 0,
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.put(at, level, name, &libc::c_int::from(tos).to_ne_bytes())
    }

    /// Writes a message at an offset; how many octets it takes.
    fn put(&mut self, at: usize, level: libc::c_int, kind: libc::c_int, data: &[u8]) -> usize {
        let header_len = size_of::<libc::cmsghdr>();
        // `CMSG_LEN` and `CMSG_SPACE`: a header is a multiple of the alignment on 64-bit and 32-bit Linux alike.
        let space = header_len + data.len().next_multiple_of(align_of::<libc::cmsghdr>());
        let place = &mut self.0[at..at + space];
        let mut length = [0; size_of::<usize>()];
        length.copy_from_slice(&(header_len + data.len()).to_ne_bytes());
        let (head, tail) = place.split_at_mut(header_len);
        head[mem::offset_of!(libc::cmsghdr, cmsg_len)..][..length.len()].copy_from_slice(&length);
        head[mem::offset_of!(libc::cmsghdr, cmsg_level)..][..4].copy_from_slice(&level.to_ne_bytes());
        head[mem::offset_of!(libc::cmsghdr, cmsg_type)..][..4].copy_from_slice(&kind.to_ne_bytes());
        tail[..data.len()].copy_from_slice(data);
        space
    }
}

impl Address {
    fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        match address {
            SocketAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size(size_of::<libc::sockaddr_in>()))
            }
            SocketAddr::V6(address) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                (Self { v6 }, size(size_of::<libc::sockaddr_in6>()))
            }
        }
    }

    fn get(&self) -> Option<SocketAddr> {
        // SAFETY: both variants begin with the family, and every union here was zeroed or written as one of them.
        let family = unsafe { self.v4.sin_family };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: the family says which it is; any bits are valid.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says which it is; any bits are valid.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of small structs")]
const fn size(octets: usize) -> libc::socklen_t {
    octets as libc::socklen_t
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "families are small numbers")]
const fn family(family: libc::c_int) -> libc::sa_family_t {
    family as libc::sa_family_t
}
