//! The TUN device: one file for each of its queues.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    thread,
    time::{Duration, Instant},
};

use nix::libc;

use super::{
    EngineError, Offloads,
    packet::virtio,
    sys::{self, LinkState},
};

const CLONE: &str = "/dev/net/tun";
/// Packets, or super-packets, that wait for us: the default of 500 is lost in one burst.
pub const QUEUE_LENGTH: u16 = 2000;
/// How long a start waits for the kernel to see to a device's carrier, and how often it looks: on kernels that cannot be made to.
const CARRIER: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_micros(200);
/// Linux 6.2.
const TUN_F_USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// An open device.
#[derive(Debug)]
pub(super) struct Tun {
    /// Not blocking. Each packet has a virtio header before it.
    pub(super) queues: Vec<File>,
    /// What of it is on.
    pub(super) offloads: Offloads,
}

/// Creates the device, of the kind that an engine opens, and makes it stay.
pub fn create_device(device: &str) -> Result<(), EngineError> {
    let (file, _) = Tun::first(device)?;
    persist(&file, device)
}

impl Tun {
    /// Opens the device, creates it if need be, and makes it stay.
    pub(super) fn open(device: &str, queues: usize, allowed: Offloads) -> Result<Self, EngineError> {
        let (first, multi_queue) = Self::first(device)?;
        let failed = |step| move |source| EngineError::Device { step, device: device.to_owned(), source };
        persist(&first, device)?;
        let more = if multi_queue && allowed.multi_queue { queues.saturating_sub(1) } else { 0 };
        let mut files = vec![first];
        for _ in 0..more {
            let file = open()?;
            sys::tun_attach(&file, device, flags(true)).map_err(failed("add a queue"))?;
            files.push(file);
        }
        settle(device);
        Self::with(device, files, allowed)
    }

    /// Queues that are open already.
    pub(super) fn with(device: &str, files: Vec<File>, allowed: Offloads) -> Result<Self, EngineError> {
        let failed = |step| move |source| EngineError::Device { step, device: device.to_owned(), source };
        let (_, flags) = sys::tun_device(&files[0]).map_err(failed("ask for its flags"))?;
        // Of a device that could have several queues one may be enough.
        let several = flags & libc::IFF_MULTI_QUEUE != 0;
        let mut offloads = Offloads { multi_queue: several && allowed.multi_queue, ..allowed };
        for file in &files {
            sys::tun_header_size(file, HEADER).map_err(failed("set the header's size"))?;
        }
        negotiate(&files[0], &mut offloads).map_err(failed("set offloads"))?;
        match sys::set_queue_length(device, QUEUE_LENGTH.into()) {
            // This call takes root of the first user namespace; whoever made the device has asked in another way.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            outcome => outcome.map_err(failed("set the queue's length"))?,
        }
        Ok(Self { queues: files, offloads })
    }

    /// The first queue, and whether there can be more. A device that stays keeps being of the kind that it was created.
    fn first(device: &str) -> Result<(File, bool), EngineError> {
        let file = open()?;
        let features = sys::tun_features(&file).map_err(|source| EngineError::Tun { source })?;
        let several = features & libc::IFF_MULTI_QUEUE.cast_unsigned() != 0;
        let attached = match sys::tun_attach(&file, device, flags(several)) {
            Ok(()) => return Ok((file, several)),
            Err(error) if several && error.raw_os_error() == Some(libc::EINVAL) => {
                sys::tun_attach(&file, device, flags(false))
            }
            Err(error) => Err(error),
        };
        let step = "open";
        attached.map_err(|source| EngineError::Device { step, device: device.to_owned(), source })?;
        Ok((file, false))
    }
}

#[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "ten")]
const HEADER: libc::c_int = virtio::LEN as libc::c_int;

fn flags(multi_queue: bool) -> libc::c_int {
    let several = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several
}

fn persist(file: &File, device: &str) -> Result<(), EngineError> {
    let step = "make persistent";
    sys::tun_persist(file).map_err(|source| EngineError::Device { step, device: device.to_owned(), source })
}

fn open() -> Result<File, EngineError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CLONE)
        .map_err(|source| EngineError::Tun { source })
}

/// A device that nobody was at had no carrier, and where it is up no queue either: the kernel gives it one a moment later
/// (`linkwatch_do_dev`, `net/core/link_watch.c`), and drops until then what is routed to it. What is started carries packets.
fn settle(device: &str) {
    let start = Instant::now();
    loop {
        match sys::link_state(device) {
            Ok(LinkState::Waiting) if start.elapsed() < CARRIER => thread::sleep(LOOK),
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, device, "asking for its carrier"),
        }
    }
}

/// As much as is allowed and as this kernel has.
fn negotiate(file: &File, offloads: &mut Offloads) -> io::Result<()> {
    loop {
        match sys::tun_offload(file, bits(*offloads)) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && offloads.uso => offloads.uso = false,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && offloads.tso => offloads.tso = false,
            Err(error) => return Err(error),
        }
    }
}

fn bits(offloads: Offloads) -> libc::c_uint {
    let tso = if offloads.tso { libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN } else { 0 };
    let uso = if offloads.uso { TUN_F_USO } else { 0 };
    let checksum = if tso | uso == 0 { 0 } else { libc::TUN_F_CSUM };
    checksum | tso | uso
}
