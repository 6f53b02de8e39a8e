//! Carrying out changes: many requests in flight, one outcome each.

use std::{panic::resume_unwind, thread};

use ipnet::IpNet;
use nix::errno::Errno;

use super::{
    LinuxKernel,
    explain::{is_absence, refused},
    setting,
};
use crate::{
    kernel::{
        KernelError, PacketFilter,
        netlink::{
            address,
            batch::Batch,
            fdb, neighbour, nexthop,
            refusal::Refusal,
            route::{self, BLACKHOLE_METRIC, Target},
            socket::CHUNK,
            wire::{Put, Request},
        },
    },
    model::{Family, Key, Object, Op, Route, Via},
};

pub(super) type Outcome = Result<(), KernelError>;

/// What is there is looked at once for so many, where it has to be looked at.
const BATCH: usize = 4096;
/// A packet filter's share of this size is worth a thread of its own.
const MANY: usize = 500;

/// How an op is carried out. Neighbours of one lane go together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Device,
    Setting,
    Filter,
    /// Netlink batches, one kind at a time: a nexthop must be right before its route comes.
    Address,
    Neighbour,
    Fdb,
    Nexthop,
    Userspace,
    Route,
    FastPath,
}

impl Lane {
    /// Those that another thread may carry out beside a large share of the packet filter's.
    fn needs_no_filter(self) -> bool {
        matches!(self, Self::Neighbour | Self::Fdb | Self::Nexthop | Self::Route)
    }
}

/// What becomes of an op at first sight.
enum Step {
    Send(Request),
    Done(Result<(), Refusal>),
    /// Must look at what is there first.
    Look,
}

impl LinuxKernel {
    pub(super) fn apply_all(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(ops.len());
        self.apply_in_lanes(ops, &mut outcomes);
        outcomes
    }

    fn apply_in_lanes(&mut self, ops: &[Op], outcomes: &mut Vec<Outcome>) {
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let lane = lane(&first.key);
            let (run, behind) = rest.split_at(count_while(rest, |of| of == lane));
            rest = behind;
            if lane == Lane::Filter && run.len() >= MANY {
                let (meanwhile, behind) = behind.split_at(count_while(behind, Lane::needs_no_filter));
                rest = behind;
                self.apply_to_filter_and(run, meanwhile, outcomes);
            } else {
                self.apply_run(lane, run, outcomes);
            }
        }
    }

    /// Ops of one lane.
    fn apply_run(&mut self, lane: Lane, run: &[Op], outcomes: &mut Vec<Outcome>) {
        match lane {
            Lane::Device | Lane::Setting => outcomes.extend(run.iter().map(|op| self.apply_to_device(op))),
            Lane::Filter => outcomes.append(&mut apply_to_filter(&mut self.filter, run)),
            Lane::Userspace => outcomes.append(&mut self.apply_to_userspace(run)),
            Lane::FastPath => outcomes.append(&mut self.apply_to_fast_path(run)),
            Lane::Address | Lane::Neighbour | Lane::Fdb | Lane::Nexthop | Lane::Route => {
                run.chunks(BATCH).for_each(|batch| self.apply_batch(batch, outcomes));
            }
        }
    }

    /// The packet filter's share in a thread of its own, `meanwhile` in this one: they meet in
    /// no lock of the kernel's, and each takes about as long as the other. So many entries come at once only where
    /// the node knew no peers before, and nobody relies on the rules yet.
    fn apply_to_filter_and(&mut self, run: &[Op], meanwhile: &[Op], outcomes: &mut Vec<Outcome>) {
        let mut filter = self.filter.take();
        let mut others = Vec::with_capacity(meanwhile.len());
        thread::scope(|scope| {
            let filtering = scope.spawn(|| apply_to_filter(&mut filter, run));
            self.apply_in_lanes(meanwhile, &mut others);
            outcomes.append(&mut filtering.join().unwrap_or_else(|panic| resume_unwind(panic)));
        });
        self.filter = filter;
        outcomes.append(&mut others);
    }

    fn apply_to_device(&mut self, op: &Op) -> Outcome {
        match (&op.key, &op.to) {
            (Key::Device(family), _) => self.apply_device(*family, op),
            (Key::Setting(family, which), Some(Object::Setting(on))) => match self.device(*family) {
                Some(link) => setting::set(&link.name, *which, *on),
                None => Err(refused(op, &no_device())),
            },
            // A knob cannot be deleted; it goes with its device.
            _ => Ok(()),
        }
    }

    fn apply_batch(&mut self, ops: &[Op], all: &mut Vec<Outcome>) {
        let outcomes = all.len();
        let (mut batch, mut sent, mut look) = (Batch::default(), Vec::with_capacity(CHUNK), Vec::new());
        for (number, part) in ops.chunks(CHUNK).enumerate() {
            batch.clear();
            sent.clear();
            for (index, op) in (number * CHUNK..).zip(part) {
                let outcome = match self.step(op) {
                    Step::Send(request) => {
                        batch.push(&request);
                        sent.push(index);
                        Ok(())
                    }
                    Step::Done(result) => result.map_err(|refusal| refused(op, &refusal)),
                    Step::Look => {
                        look.push(index);
                        Ok(())
                    }
                };
                all.push(outcome);
            }
            for (place, refusal) in self.socket.batch(&mut batch) {
                let (index, op) = (sent[place], &ops[sent[place]]);
                match refusal.errno {
                    errno if op.to.is_none() && is_absence(&op.key, errno) => {}
                    // Somebody's is there already: whose?
                    Errno::EEXIST => look.push(index),
                    _ => all[outcomes + index] = Err(refused(op, &refusal)),
                }
            }
        }
        if !look.is_empty() {
            self.settle(ops, &look, &mut all[outcomes..]);
        }
    }

    fn step(&self, op: &Op) -> Step {
        let device = |family| Some(self.device_index(family)).filter(|index| *index != 0);
        let on = |family, request: &dyn Fn(u32) -> Request| match device(family) {
            Some(index) => Step::Send(request(index)),
            None if op.to.is_none() => Step::Done(Ok(())),
            None => Step::Done(Err(no_device())),
        };
        // Where we think that nothing is, nothing is replaced: it could be somebody else's.
        let put = if op.from.is_some() { Put::Replace } else { Put::New };
        match (&op.key, &op.to) {
            (Key::Address(family, net), Some(_)) => on(*family, &|index| address::put(index, *net)),
            (Key::Address(family, net), None) => on(*family, &|index| address::delete(index, *net)),
            (Key::Neighbour(ip), Some(Object::Neighbour(mac))) => {
                on(Family::of(ip), &|index| neighbour::put(index, *ip, *mac))
            }
            (Key::Neighbour(ip), None) => on(Family::of(ip), &|index| neighbour::delete(index, *ip)),
            (Key::Fdb(family, mac), Some(Object::Fdb(outer))) => on(*family, &|index| fdb::put(index, *mac, *outer)),
            (Key::Fdb(family, mac), None) => on(*family, &|index| fdb::delete(index, *mac)),
            (Key::Nexthop(gateway), Some(_)) => {
                on(Family::V4, &|index| nexthop::put(put, index, *gateway, Route::PROTOCOL))
            }
            (Key::Nexthop(gateway), None) if op.from.is_some() => Step::Send(nexthop::delete((*gateway).into())),
            (Key::Nexthop(_), None) => Step::Look,
            (Key::Route(dst), to) => self.route_step(op, *dst, to.as_ref(), put),
            _ => Step::Done(Err(Refusal::new(Errno::EINVAL, "the object does not fit its key"))),
        }
    }

    fn route_step(&self, op: &Op, dst: IpNet, to: Option<&Object>, put: Put) -> Step {
        let from = match &op.from {
            Some(Object::Route(from)) => Some(*from),
            _ => None,
        };
        match (to, from) {
            // Several, or one that no request of ours describes.
            (_, Some(Route { via: Via::Other, .. })) => Step::Look,
            (Some(Object::Route(to)), Some(from))
                if metric(dst, to.via) != metric(dst, from.via) || hides_gateway(dst, from.via, to.via) =>
            {
                Step::Look
            }
            (Some(Object::Route(to)), _) => match self.target(dst, to.via) {
                Ok(target) => Step::Send(route::put(put, dst, target, to.protocol)),
                Err(refusal) => Step::Done(Err(refusal)),
            },
            (Some(_), _) => Step::Done(Err(Refusal::new(Errno::EINVAL, "not a route"))),
            // By id it could not be named once the nexthop object is gone.
            (None, Some(Route { via: Via::Overlay { nexthop: true }, protocol })) => {
                Step::Send(route::delete(dst, None, protocol))
            }
            (None, Some(from)) => match self.target(dst, from.via) {
                Ok(target) => Step::Send(route::delete(dst, Some(target), from.protocol)),
                // It went with its device.
                Err(_) => Step::Done(Ok(())),
            },
            (None, None) => Step::Send(route::delete(dst, None, Route::PROTOCOL)),
        }
    }

    pub(super) fn target(&self, dst: IpNet, via: Via) -> Result<Target, Refusal> {
        let base = dst.addr();
        match (via, base) {
            (Via::Overlay { nexthop: true }, std::net::IpAddr::V4(base)) => Ok(Target::Nexthop(base.into())),
            (Via::Overlay { nexthop: false }, _) => match self.device_index(Family::of(&base)) {
                0 => Err(no_device()),
                device => Ok(Target::Gateway { gateway: base, device, onlink: true }),
            },
            (Via::Device, _) => match self.device_index(Family::of(&base)) {
                0 => Err(no_device()),
                device => Ok(Target::Device(device)),
            },
            (Via::Direct { gateway }, _) => match self.scope.uplink {
                0 => Err(Refusal::new(Errno::ENODEV, "no uplink is known")),
                device => Ok(Target::Gateway { gateway, device, onlink: false }),
            },
            (Via::Blackhole, _) => Ok(Target::Blackhole),
            (Via::Overlay { nexthop: true } | Via::Other, _) => {
                Err(Refusal::new(Errno::EINVAL, "not a route that can be made"))
            }
        }
    }
}

/// How many ops the slice begins with whose lane is such a one.
fn count_while(ops: &[Op], is: impl Fn(Lane) -> bool) -> usize {
    ops.iter().take_while(|op| is(lane(&op.key))).count()
}

fn lane(key: &Key) -> Lane {
    match key {
        Key::Device(_) => Lane::Device,
        Key::Setting(..) => Lane::Setting,
        Key::Filter | Key::Guard(..) => Lane::Filter,
        Key::Address(..) => Lane::Address,
        Key::Neighbour(_) => Lane::Neighbour,
        Key::Fdb(..) => Lane::Fdb,
        Key::Nexthop(_) => Lane::Nexthop,
        Key::Forward(_) | Key::Engine(_) => Lane::Userspace,
        Key::Route(_) => Lane::Route,
        Key::LiberalConntrack | Key::FastPath | Key::FastPeer(_) | Key::Attachment(_) => Lane::FastPath,
    }
}

pub(super) fn metric(dst: IpNet, via: Via) -> u32 {
    match (via, Family::of_net(&dst)) {
        (Via::Blackhole, _) => BLACKHOLE_METRIC,
        (_, Family::V4) => 0,
        (_, Family::V6) => route::V6_METRIC,
    }
}

/// The kernel refuses an onlink gateway that another device's route leads to
/// (`ip6_route_check_nh_onlink`, `net/ipv6/route.c`, 6.18), and the gateway lies inside the
/// destination: the old route has to go before the new one can come.
pub(super) fn hides_gateway(dst: IpNet, from: Via, to: Via) -> bool {
    dst.addr().is_ipv6() && matches!(to, Via::Overlay { .. }) && !matches!(from, Via::Overlay { .. })
}

fn no_device() -> Refusal {
    Refusal::new(Errno::ENODEV, "there is no tunnel device")
}

fn apply_to_filter(filter: &mut Option<Box<dyn PacketFilter>>, ops: &[Op]) -> Vec<Outcome> {
    let nobody = || Refusal::new(Errno::EOPNOTSUPP, "no packet filter is in use");
    match filter {
        Some(filter) => filter.apply(ops),
        None => ops.iter().map(|op| Err(refused(op, &nobody()))).collect(),
    }
}
