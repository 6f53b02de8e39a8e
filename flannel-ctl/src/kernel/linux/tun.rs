//! TUN devices that stay when nobody reads them: made by `ioctl`, since netlink cannot; the rest is as with any device.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use nix::{errno::Errno, libc};

use super::LinuxKernel;
use crate::{
    kernel::netlink::{link, socket::Refusal},
    model::{Family, Tun},
};

const CLONE_DEVICE: &str = "/dev/net/tun";

impl LinuxKernel {
    /// Makes it, or changes what is there; a VXLAN device of that name is the kernel datapath's, and goes.
    pub(super) fn put_tun(&mut self, family: Family, wanted: &Tun) -> Result<(), Refusal> {
        let mut found = self.find_link(&wanted.name)?;
        if let Some(link) = found.as_ref().filter(|link| link.vxlan.is_some()) {
            *self.device_slot(family) = None;
            self.socket.run(link::delete(link.index))?;
            found = None;
        }
        if found.is_none() {
            make(&wanted.name)?;
            found = self.find_link(&wanted.name)?;
        }
        let Some(link) = found else {
            return Err(Refusal::new(Errno::ENODEV, "somebody removed it at once"));
        };
        let Some(present) = link.to_tun() else {
            let kind = link.kind.as_deref().unwrap_or("physical");
            let text = format!("{} exists and is not ours but {kind}: rename or remove it", wanted.name);
            return Err(Refusal::new(Errno::EEXIST, &text));
        };
        if present != *wanted {
            self.socket.run(link::change_tun(link.index, wanted))?;
        }
        self.remember(family, &wanted.name)
    }
}

/// `ip tuntap add NAME mode tun vnet_hdr multi_queue`: of the kind that the engine opens.
fn make(name: &str) -> Result<(), Refusal> {
    let refused = |step: &str, error: &io::Error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let hint = match errno {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => ": is the tun module there? try modprobe tun",
            Errno::EACCES => ": may this user open it?",
            _ => "",
        };
        Refusal::new(errno, &format!("{step}{hint}"))
    };
    let clone = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CLONE_DEVICE)
        .map_err(|error| refused(&format!("opening {CLONE_DEVICE}"), &error))?;
    attach(&clone, name).map_err(|error| refused("TUNSETIFF", &error))?;
    persist(&clone).map_err(|error| refused("TUNSETPERSIST", &error))
}

fn attach(clone: &File, name: &str) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let flags = libc::c_short::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF takes a pointer to an ifreq with a name that ends in a zero byte and flags; it outlives the call.
    let result = unsafe { libc::ioctl(clone.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    Errno::result(result)?;
    Ok(())
}

fn persist(tun: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a number, no pointer.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, 1) };
    Errno::result(result)?;
    Ok(())
}
