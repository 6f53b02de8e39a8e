//! Carrying out changes: many requests in flight, one outcome each.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::resume_unwind,
    thread,
};

use ipnet::IpNet;
use nix::errno::Errno;

use super::{
    LinuxKernel, classify,
    explain::{is_absence, refused},
    setting,
};
use crate::{
    kernel::{
        KernelError,
        netlink::{
            address, fdb, neighbour,
            nexthop::{self, Nexthop},
            route::{self, BLACKHOLE_METRIC, Entry, Target},
            socket::Refusal,
            wire::{Put, Request},
        },
    },
    model::{Family, Key, Object, Op, Route, Via},
};

type Outcome = Result<(), KernelError>;

/// Requests that are built before they are sent; bounds the memory that a large plan takes.
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
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let lane = lane(&first.key);
            let (run, behind) = rest.split_at(count_while(rest, |of| of == lane));
            rest = behind;
            if lane == Lane::Filter && run.len() >= MANY {
                let (meanwhile, behind) = behind.split_at(count_while(behind, Lane::needs_no_filter));
                rest = behind;
                outcomes.extend(self.apply_to_filter_and(run, meanwhile));
            } else {
                outcomes.extend(self.apply_run(lane, run));
            }
        }
        outcomes
    }

    /// Ops of one lane.
    fn apply_run(&mut self, lane: Lane, run: &[Op]) -> Vec<Outcome> {
        match lane {
            Lane::Device | Lane::Setting => run.iter().map(|op| self.apply_to_device(op)).collect(),
            Lane::Filter => match &mut self.filter {
                Some(filter) => filter.apply(run),
                None => run.iter().map(|op| Err(no_filter(op))).collect(),
            },
            Lane::Userspace => self.apply_to_userspace(run),
            Lane::FastPath => self.apply_to_fast_path(run),
            Lane::Address | Lane::Neighbour | Lane::Fdb | Lane::Nexthop | Lane::Route => {
                run.chunks(BATCH).flat_map(|batch| self.apply_batch(batch)).collect()
            }
        }
    }

    /// The packet filter's share in a thread of its own, `meanwhile` in this one: they meet in
    /// no lock of the kernel's, and each takes about as long as the other. So many entries come at once only where
    /// the node knew no peers before, and nobody relies on the rules yet.
    fn apply_to_filter_and(&mut self, run: &[Op], meanwhile: &[Op]) -> Vec<Outcome> {
        let mut filter = self.filter.take();
        let (mut outcomes, others) = thread::scope(|scope| {
            let filtering = scope.spawn(|| match &mut filter {
                Some(filter) => filter.apply(run),
                None => run.iter().map(|op| Err(no_filter(op))).collect(),
            });
            let others = self.apply_all(meanwhile);
            (filtering.join().unwrap_or_else(|panic| resume_unwind(panic)), others)
        });
        self.filter = filter;
        outcomes.extend(others);
        outcomes
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

    fn apply_batch(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(ops.len());
        let (mut requests, mut sent, mut look) = (Vec::new(), Vec::new(), Vec::new());
        for (index, op) in ops.iter().enumerate() {
            let outcome = match self.step(op) {
                Step::Send(request) => {
                    requests.push(request);
                    sent.push(index);
                    Ok(())
                }
                Step::Done(result) => result.map_err(|refusal| refused(op, &refusal)),
                Step::Look => {
                    look.push(index);
                    Ok(())
                }
            };
            outcomes.push(outcome);
        }
        for (index, result) in sent.into_iter().zip(self.socket.batch(&mut requests)) {
            let op = &ops[index];
            match result {
                Ok(()) => {}
                Err(refusal) if op.to.is_none() && is_absence(&op.key, refusal.errno) => {}
                // Somebody's is there already: whose?
                Err(refusal) if refusal.errno == Errno::EEXIST => look.push(index),
                Err(refusal) => outcomes[index] = Err(refused(op, &refusal)),
            }
        }
        if !look.is_empty() {
            self.settle(ops, &look, &mut outcomes);
        }
        outcomes
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

    fn target(&self, dst: IpNet, via: Via) -> Result<Target, Refusal> {
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

    /// The ops that need a look at what is there. All of one lane.
    fn settle(&mut self, ops: &[Op], look: &[usize], outcomes: &mut [Outcome]) {
        let routes: BTreeSet<IpNet> = look.iter().filter_map(|index| route_of(&ops[*index])).collect();
        let present = self.routes_to(&routes);
        for index in look {
            let op = &ops[*index];
            let settled = match (&op.key, &present) {
                (Key::Nexthop(gateway), _) => self.settle_nexthop(op, (*gateway).into()),
                (Key::Route(dst), Ok(present)) => {
                    self.settle_route(op, *dst, present.get(dst).map(Vec::as_slice).unwrap_or_default())
                }
                (Key::Route(_), Err(refusal)) => Err(refusal.clone()),
                _ => Err(Errno::EEXIST.into()),
            };
            outcomes[*index] = settled.map_err(|refusal| refused(op, &refusal));
        }
    }

    fn settle_nexthop(&mut self, op: &Op, id: u32) -> Result<(), Refusal> {
        let device = self.device_index(Family::V4);
        let found = match self.socket.ask(&mut [nexthop::get(id)], Nexthop::read).remove(0) {
            Err(refusal) if refusal.errno == Errno::ENOENT => None,
            found => Some(found?),
        };
        let ours = found.filter(|found| found.protocol == Route::PROTOCOL);
        match (&op.to, ours, found) {
            (None, None, _) => Ok(()),
            (None, Some(_), _) => self.socket.run(nexthop::delete(id)),
            (Some(_), Some(ours), _) if ours.is_sound(device) => Ok(()),
            (Some(_), Some(_), _) => self.socket.run(nexthop::put(Put::Replace, device, id.into(), Route::PROTOCOL)),
            (Some(_), None, Some(theirs)) => {
                Err(Refusal::new(Errno::EEXIST, &format!("one of protocol {} has id {id}", theirs.protocol)))
            }
            (Some(_), None, None) => self.socket.run(nexthop::put(Put::New, device, id.into(), Route::PROTOCOL)),
        }
    }

    fn routes_to(&mut self, wanted: &BTreeSet<IpNet>) -> Result<BTreeMap<IpNet, Vec<Entry>>, Refusal> {
        let mut found: BTreeMap<IpNet, Vec<Entry>> = BTreeMap::new();
        for family in Family::ALL {
            if wanted.iter().any(|net| Family::of_net(net) == family) {
                let entries = self.socket.dump(route::list(family, None), |payload| {
                    Entry::read(payload).filter(|entry| entry.is_main() && wanted.contains(&entry.dst))
                })?;
                entries.into_iter().for_each(|entry| found.entry(entry.dst).or_default().push(entry));
            }
        }
        Ok(found)
    }

    /// Of the routes to one destination, ours become the wanted one; those of others stay, and
    /// if one of them is in the way, that is the answer.
    fn settle_route(&mut self, op: &Op, dst: IpNet, present: &[Entry]) -> Result<(), Refusal> {
        let devices = self.devices();
        let object = |entry: &Entry| classify::route(&self.scope, devices, entry).map(|(_, object)| object);
        let (ours, theirs): (Vec<&Entry>, Vec<&Entry>) = present.iter().partition(|entry| object(entry).is_some());
        let Some(Object::Route(to)) = &op.to else {
            return self.delete_entries(&ours);
        };
        let right: Vec<bool> = ours.iter().map(|entry| object(entry).as_ref() == op.to.as_ref()).collect();
        let wrong: Vec<&Entry> =
            ours.iter().zip(&right).filter(|(_, right)| !**right).map(|(entry, _)| *entry).collect();
        if right.contains(&true) {
            return self.delete_entries(&wrong);
        }
        let metric = metric(dst, to.via);
        if let Some(rival) = theirs.iter().find(|entry| entry.metric == metric && !entry.special) {
            let text = format!("one of protocol {} is there", rival.protocol);
            return Err(Refusal::new(Errno::EEXIST, &text));
        }
        if wrong.iter().any(|entry| match object(entry) {
            Some(Object::Route(from)) => hides_gateway(dst, from.via, to.via),
            _ => false,
        }) {
            self.delete_entries(&wrong)?;
            return self.socket.run(route::put(Put::New, dst, self.target(dst, to.via)?, to.protocol));
        }
        // Replacing takes the place of one; the others of ours go afterwards.
        let place = wrong.iter().position(|entry| entry.metric == metric && !entry.special);
        let target = self.target(dst, to.via)?;
        let others: Vec<&Entry> =
            wrong.iter().enumerate().filter(|(index, _)| Some(*index) != place).map(|(_, entry)| *entry).collect();
        let put = if place.is_some() { Put::Replace } else { Put::New };
        self.socket.run(route::put(put, dst, target, to.protocol))?;
        self.delete_entries(&others)
    }

    fn delete_entries(&mut self, entries: &[&Entry]) -> Result<(), Refusal> {
        let mut requests: Vec<_> = entries.iter().map(|entry| route::delete_entry(entry)).collect();
        for result in self.socket.batch(&mut requests) {
            match result {
                Err(refusal) if refusal.errno != Errno::ESRCH => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
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

fn route_of(op: &Op) -> Option<IpNet> {
    match op.key {
        Key::Route(dst) => Some(dst),
        _ => None,
    }
}

fn metric(dst: IpNet, via: Via) -> u32 {
    match (via, Family::of_net(&dst)) {
        (Via::Blackhole, _) => BLACKHOLE_METRIC,
        (_, Family::V4) => 0,
        (_, Family::V6) => route::V6_METRIC,
    }
}

/// The kernel refuses an onlink gateway that another device's route leads to
/// (`ip6_route_check_nh_onlink`, `net/ipv6/route.c`, 6.18), and the gateway lies inside the
/// destination: the old route has to go before the new one can come.
fn hides_gateway(dst: IpNet, from: Via, to: Via) -> bool {
    dst.addr().is_ipv6() && matches!(to, Via::Overlay { .. }) && !matches!(from, Via::Overlay { .. })
}

fn no_device() -> Refusal {
    Refusal::new(Errno::ENODEV, "there is no tunnel device")
}

fn no_filter(op: &Op) -> KernelError {
    refused(op, &Refusal::new(Errno::EOPNOTSUPP, "no packet filter is in use"))
}
