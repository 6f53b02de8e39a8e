//! A loop of the kind that flannel's `udp` backend runs: one thread waits for device and socket, then takes one packet of each in
//! turn until both have none; the packet itself is the datagram, and its time to live goes down by one on each side.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    mem,
    net::UdpSocket,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::Tunnel;
use crate::load::{READY, say};

const PORT: u16 = 8285;

pub(crate) fn run(tunnel: &Tunnel) -> Result<()> {
    let mut device = open(&tunnel.device)?;
    let socket = UdpSocket::bind((tunnel.local, PORT)).with_context(|| format!("binding {}:{PORT}", tunnel.local))?;
    socket.set_nonblocking(true)?;
    // As large as the device's packets: flannel cuts what is longer.
    let mut buffer = vec![0; usize::try_from(tunnel.mtu)?];
    say(READY)?;
    loop {
        let mut both = [PollFd::new(device.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut both, PollTimeout::NONE).context("waiting for packets")?;
        loop {
            let outward = match device.read(&mut buffer) {
                Ok(read) => {
                    if hop(&mut buffer[..read]) {
                        // A full buffer loses the packet, as in flannel.
                        drop(socket.send_to(&buffer[..read], (tunnel.peer, PORT)));
                    }
                    true
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error).context("reading from the device"),
            };
            let inward = match socket.recv(&mut buffer) {
                Ok(read) => {
                    if hop(&mut buffer[..read]) {
                        drop(device.write(&buffer[..read]));
                    }
                    true
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error).context("receiving"),
            };
            if !outward && !inward {
                break;
            }
        }
    }
}

/// Takes one from an IPv4 packet's time to live; whether it may go on.
fn hop(packet: &mut [u8]) -> bool {
    if packet.len() < 20 || packet[0] >> 4 != 4 || packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    // The word's other half stays: the complement of the sum grows by what the word lost.
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    true
}

/// Creates the device; it goes away with the file.
fn open(name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: an ifreq is a name and a union of plain data; all zeroes is one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "{name} is too long a name");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: TUNSETIFF takes a pointer to an ifreq with name and flags, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    Errno::result(result).with_context(|| format!("creating TUN device {name}"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_keeps_the_checksum_right() {
        for (ttl, id) in [(64_u8, 1_u8), (2, 0xff), (255, 0x3f)] {
            let mut packet = [0x45, 0, 0, 20, id, 7, 0, 0, ttl, 17, 0, 0, 10, 244, 1, 2, 10, 244, 2, 2];
            let sum = |packet: &[u8]| {
                let sum: u32 = packet.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
                (sum & 0xffff) + (sum >> 16)
            };
            let check = !u16::try_from(sum(&packet)).unwrap();
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            assert!(hop(&mut packet));
            assert_eq!((sum(&packet), packet[8]), (0xffff, ttl - 1));
        }
        assert!(!hop(&mut [0x45, 0, 0, 20, 0, 0, 0, 0, 1, 17, 0, 0, 10, 244, 1, 2, 10, 244, 2, 2]));
        assert!(!hop(&mut [0x45; 4]));
    }
}
