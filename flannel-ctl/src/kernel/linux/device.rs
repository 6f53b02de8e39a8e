//! Making, changing and removing the tunnel devices.

use std::{net::IpAddr, sync::mpsc, thread, time::Duration};

use nix::errno::Errno;

use super::{
    LinuxKernel,
    explain::{explain, refused},
    setting,
};
use crate::{
    kernel::{
        KernelError,
        netlink::{
            link::{self, Link},
            neighbour::{self, Neighbour},
            refusal::Refusal,
            socket::Socket,
        },
    },
    model::{Device, Family, Object, Op, Setting},
};

/// RFC 8200 section 5.
const V6_MIN_MTU: u32 = 1280;

fn named(mut refusal: Refusal, rival: &Link, wanted: &Device) -> Refusal {
    refusal.text = format!("{}: {} has VNI {} on port {}", refusal.text, rival.name, wanted.vni, wanted.port);
    refusal
}

impl LinuxKernel {
    pub(super) fn apply_device(&mut self, family: Family, op: &Op) -> Result<(), KernelError> {
        let outcome = match (&op.to, &op.from) {
            (Some(Object::Device(wanted)), _) => self.put_device(family, wanted),
            (Some(Object::Tun(wanted)), _) => self.put_tun(family, wanted),
            (None, Some(Object::Device(old))) => self.delete_device(family, &old.name),
            (None, Some(Object::Tun(old))) => self.delete_device(family, &old.name),
            (None, _) => match self.scope.device_name(family) {
                Some(name) => self.delete_device(family, &name),
                None => Ok(()),
            },
            (Some(_), _) => Err(Refusal::new(Errno::EINVAL, "not a device")),
        };
        outcome.map_err(|refusal| refused(op, &refusal))
    }

    /// Removes it if it is VXLAN or our TUN; another kind under that name is not ours.
    pub(super) fn delete_device(&mut self, family: Family, name: &str) -> Result<(), Refusal> {
        *self.device_slot(family) = None;
        self.end_leaving();
        match self.find_link(name)? {
            Some(found) if found.vxlan.is_some() || found.lasting_tun => {
                match self.socket.run(link::delete(found.index)) {
                    Err(refusal) if refusal.errno != Errno::ENODEV => Err(refusal),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn put_device(&mut self, family: Family, wanted: &Device) -> Result<(), Refusal> {
        self.end_leaving();
        let mut found = self.find_link(&wanted.name)?;
        if let Some(tun) = found.take_if(|found| found.lasting_tun) {
            // The userspace datapath's, which this node had before.
            *self.device_slot(family) = None;
            self.make_way(&tun)?;
        }
        if let Some(found) = found {
            let Some(present) = found.to_device(family) else {
                let kind = found.kind.as_deref().unwrap_or("physical");
                let text = format!("{} exists and is not VXLAN but {kind}: rename or remove it", wanted.name);
                return Err(Refusal::new(Errno::EEXIST, &text));
            };
            if !present.must_recreate(wanted) {
                self.change_device(family, found.index, &present, wanted)?;
                return self.remember(family, &wanted.name);
            }
            *self.device_slot(family) = None;
            self.make_way(&found)?;
        }
        if let Err(refusal) = self.create(wanted) {
            let rival = if refusal.errno == Errno::EEXIST { self.rival(wanted) } else { None };
            return match rival {
                // With our address it is our own device, under a name that somebody gave it.
                Some(rival) if rival.mac == Some(wanted.mac) => self.take_back(family, &rival, wanted),
                Some(rival) => Err(named(refusal, &rival, wanted)),
                None => Err(refusal),
            };
        }
        self.remember(family, &wanted.name)
    }

    /// Deletes a device in whose place another comes. The kernel answers once nobody can have it in hand any more
    /// (`netdev_run_todo`, `net/core/dev.c`, 6.18), which takes as long as the deletion itself; name, port and VNI are free
    /// before. Packets wait for them, so we do not wait for the answer.
    pub(super) fn make_way(&mut self, old: &Link) -> Result<(), Refusal> {
        const LOOK: Duration = Duration::from_millis(1);
        let index = old.index;
        let (done_tx, done) = mpsc::channel();
        let delete = move || {
            let outcome = Socket::open().and_then(|mut socket| socket.run(link::delete(index)));
            // Nobody listens any more once the device has gone.
            drop(done_tx.send(outcome));
        };
        if thread::Builder::new().name("device-end".into()).spawn(delete).is_err() {
            return self.socket.run(link::delete(index));
        }
        loop {
            match done.recv_timeout(LOOK) {
                Ok(outcome) => return outcome,
                Err(_) if self.find_link(&old.name)?.is_none_or(|found| found.index != index) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Refusal::new(Errno::EIO, "the thread that deletes it ended"));
                }
            }
        }
    }

    /// Devices on one port share a socket, which takes zero checksums for all of them or for none (`vxlan_find_sock`,
    /// `drivers/net/vxlan/vxlan_core.c`, 6.18). Where another's is there that does not, ours goes without too.
    fn create(&mut self, wanted: &Device) -> Result<(), Refusal> {
        let over_v6 = wanted.local.is_ipv6();
        match self.socket.run(link::create(wanted, over_v6)) {
            Err(refusal) if over_v6 && refusal.errno == Errno::EADDRINUSE => {
                tracing::info!(
                    device = wanted.name,
                    port = wanted.port,
                    "a VXLAN device on this port wants UDP checksums \
                    over IPv6; ours does too, and peers reach it without their fast path"
                );
                self.socket.run(link::create(wanted, false))
            }
            outcome => outcome,
        }
    }

    /// With its MAC a device loses its neighbours, permanent ones too (`neigh_changeaddr`,
    /// `net/core/neighbour.c`, 6.18): they are put back.
    fn change_device(&mut self, family: Family, index: u32, from: &Device, to: &Device) -> Result<(), Refusal> {
        let mut neighbours = Vec::new();
        if from.mac != to.mac {
            neighbours = self.socket.dump(neighbour::list(family, index), |payload| {
                let entry = Neighbour::read(payload).filter(|entry| entry.index == index && entry.is_permanent())?;
                Some(neighbour::put(index, entry.ip?, entry.mac?))
            })?;
        }
        for request in link::change(index, from, to) {
            self.socket.run(request)?;
        }
        // Below its smallest MTU IPv6 leaves a device, and comes back with its knobs at default.
        let v6_returns = (from.mtu..to.mtu).contains(&(V6_MIN_MTU - 1));
        if v6_returns && let Err(error) = setting::set(&to.name, Setting::AcceptRa, false) {
            return Err(Refusal::new(Errno::from_raw(error.errno), &error.to_string()));
        }
        self.socket.run_all(&neighbours).into_iter().collect()
    }

    /// Later ops need its index.
    pub(super) fn remember(&mut self, family: Family, name: &str) -> Result<(), Refusal> {
        *self.device_slot(family) = self.find_link(name)?;
        match self.device(family) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Errno::ENODEV, "somebody removed it at once")),
        }
    }

    /// A VNI can be had once per port and family in a network namespace: who has it?
    fn rival(&mut self, wanted: &Device) -> Option<Link> {
        // One of the other family is none, unless it takes packets of both.
        let family = |local: Option<IpAddr>| local.is_none_or(|ip| ip.is_ipv4() == wanted.local.is_ipv4());
        let same = |link: &Link| {
            link.vxlan.is_some_and(|it| (it.vni, it.port) == (wanted.vni, wanted.port) && family(it.local))
        };
        let rivals = self.socket.dump(link::list(), |payload| Link::read(payload).filter(same));
        // The refusal that led here says enough if they cannot be listed.
        rivals.ok()?.into_iter().next()
    }

    /// Gives our device its name again, and whatever else it lacks.
    fn take_back(&mut self, family: Family, found: &Link, wanted: &Device) -> Result<(), Refusal> {
        tracing::warn!(name = found.name, wanted = wanted.name, "our device was renamed; giving it its name again");
        for request in link::rename(found.index, &wanted.name) {
            self.socket.run(request)?;
        }
        self.put_device(family, wanted)
    }

    /// Every tunnel device of ours, for removal.
    pub(super) fn our_devices(&mut self) -> Result<Vec<Link>, KernelError> {
        let names = Family::ALL.map(|family| self.scope.device_name(family));
        let ours = |link: &Link| {
            (link.vxlan.is_some() || link.lasting_tun) && names.iter().flatten().any(|name| *name == link.name)
        };
        let found = self.socket.dump(link::list(), |payload| Link::read(payload).filter(ours));
        found.map_err(|refusal| explain("list the devices", &refusal, None))
    }
}
