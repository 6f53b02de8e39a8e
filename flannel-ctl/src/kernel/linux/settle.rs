//! Changes that depend on what is there: whose it is, and how many.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nix::errno::Errno;

use super::{
    LinuxKernel,
    apply::{Outcome, hides_gateway, metric},
    classify,
    explain::refused,
};
use crate::{
    kernel::netlink::{
        nexthop::{self, Nexthop},
        refusal::Refusal,
        route::{self, Entry},
        wire::Put,
    },
    model::{Family, Key, Object, Op, Route},
};

impl LinuxKernel {
    /// The ops that need a look at what is there. All of one lane.
    pub(super) fn settle(&mut self, ops: &[Op], look: &[usize], outcomes: &mut [Outcome]) {
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
        let found = match self.socket.ask(&[nexthop::get(id)], Nexthop::read).remove(0) {
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
        let requests: Vec<_> = entries.iter().map(|entry| route::delete_entry(entry)).collect();
        for result in self.socket.run_all(&requests) {
            match result {
                Err(refusal) if refusal.errno != Errno::ESRCH => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
    }
}

fn route_of(op: &Op) -> Option<IpNet> {
    match op.key {
        Key::Route(dst) => Some(dst),
        _ => None,
    }
}
