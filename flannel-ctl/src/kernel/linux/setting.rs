//! Knobs of a VXLAN device that netlink does not turn.

use std::{fs, io, os::fd::AsRawFd, os::unix::net::UnixDatagram};

use nix::{errno::Errno, libc};

use crate::{kernel::KernelError, model::Setting};

/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;

/// `None`: this kernel, or this device, has no such knob.
pub(super) fn get(device: &str, setting: Setting) -> Result<Option<bool>, KernelError> {
    let value = match setting {
        Setting::AcceptRa => present(fs::read_to_string(accept_ra(device)).map(|text| text.trim() != "0")),
        Setting::TxChecksum => present(ethtool(device, GET_TX_CHECKSUM, 0).map(|value| value != 0)),
    };
    value.map_err(|error| failure("read", device, setting, &error))
}

/// Setting a knob that is not there succeeds.
pub(super) fn set(device: &str, setting: Setting, on: bool) -> Result<(), KernelError> {
    let done = match setting {
        Setting::AcceptRa => present(fs::write(accept_ra(device), if on { "1" } else { "0" })),
        Setting::TxChecksum => present(ethtool(device, SET_TX_CHECKSUM, on.into()).map(drop)),
    };
    done.map(drop).map_err(|error| failure("set", device, setting, &error))
}

/// `/proc/sys/net` shows the namespace of the thread that opens it. Names with a slash are not
/// possible for devices; a dot needs no escape in a path.
fn accept_ra(device: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{device}/accept_ra")
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn failure(verb: &str, device: &str, setting: Setting, error: &io::Error) -> KernelError {
    let errno = error.raw_os_error().unwrap_or(0);
    let hint = match Errno::from_raw(errno) {
        Errno::EPERM => Some("needs CAP_NET_ADMIN"),
        Errno::EROFS | Errno::EACCES => Some("is /proc/sys mounted read-only in this container?"),
        Errno::ENODEV => Some("the device went away"),
        _ => None,
    };
    KernelError { attempt: format!("{verb} {setting} of {device}"), answer: error.to_string(), hint, errno }
}

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `ethtool -K DEVICE tx on|off`, by way of `ioctl`.
fn ethtool(device: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = Value { command, data };
    let mut name = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    let mut request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() } };
    // Any socket will do; its namespace is where the device is looked for.
    let socket = UnixDatagram::unbound()?;
    // SAFETY: SIOCETHTOOL takes a pointer to an ifreq whose ifru_data points to the command's
    // struct, here ethtool_value for both commands. Both outlive the call, and nothing else
    // refers to them while it runs.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    Errno::result(result)?;
    Ok(value.data)
}
