//! Reading back everything that is ours.

use std::{mem, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{LinuxKernel, classify, explain, setting};
use crate::{
    kernel::{
        KernelError,
        netlink::{
            address::{self, Address},
            fdb,
            neighbour::{self, Neighbour},
            nexthop::{self, Nexthop},
            refusal::Refusal,
            route::{self, Entry},
        },
    },
    model::{Family, Key, Mac, Object, Route, State},
};

/// The large tables, one entry or more per peer each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Neighbours,
    Forwarding,
    Nexthops,
    Routes,
}

impl Table {
    pub(super) const ALL: [Self; 4] = [Self::Neighbours, Self::Forwarding, Self::Nexthops, Self::Routes];

    /// Its entries in a state.
    pub(super) fn entries(self, state: &State) -> impl Iterator<Item = (&Key, &Object)> {
        let first = match self {
            Self::Neighbours => Key::Neighbour(Ipv4Addr::UNSPECIFIED.into()),
            Self::Forwarding => Key::Fdb(Family::V4, Mac([0; 6])),
            Self::Nexthops => Key::Nexthop(Ipv4Addr::UNSPECIFIED),
            Self::Routes => Key::Route(Ipv4Net::default().into()),
        };
        state.range(first..).take_while(move |(key, _)| mem::discriminant(*key) == mem::discriminant(&first))
    }
}

impl LinuxKernel {
    pub(super) fn observe_all(&mut self, wanted: &State) -> Result<State, KernelError> {
        let mut state = self.observe_few(wanted)?;
        let keep = |entry, found: &mut Vec<(Key, Object)>| found.push(entry);
        // Built into the map in one go: that is faster and takes half the room.
        let mut all = Vec::with_capacity(wanted.len());
        for table in [Table::Neighbours, Table::Forwarding, Table::Nexthops] {
            self.read_table(table, wanted, keep, |mut found| all.append(&mut found))?;
        }
        let mut routes = Vec::new();
        self.read_table(Table::Routes, wanted, keep, |mut found| routes.append(&mut found))?;
        // Two of ours for one destination: the last one stays, so that what is wrong is mended.
        let (right, wrong): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|(key, object)| wanted.get(key) == Some(object));
        all.extend(right);
        all.extend(wrong);
        if let Some(filter) = &mut self.filter {
            let mut rules = State::new();
            match filter.observe(wanted, &mut rules) {
                Ok(()) => state.append(&mut rules),
                // Nobody's routes wait for that: the rules count as missing, so that putting them
                // tells the trouble as theirs, and the peers in the sets as they should be.
                Err(error) => {
                    tracing::warn!(%error, "cannot read the packet filter");
                    let guards = wanted.iter().filter(|(key, _)| matches!(key, Key::Guard(..)));
                    state.extend(guards.map(|(key, object)| (*key, object.clone())));
                }
            }
        }
        self.observe_userspace(&mut state);
        self.observe_fast_path(&mut state)?;
        all.extend(state);
        Ok(all.into_iter().collect())
    }

    /// Devices, their settings and addresses.
    pub(super) fn observe_few(&mut self, wanted: &State) -> Result<State, KernelError> {
        let mut state = State::new();
        for family in Family::ALL {
            self.observe_device(family, wanted, &mut state)?;
        }
        let (devices, scope) = (self.devices(), &self.scope);
        for family in Family::ALL {
            let index = classify::index(devices, family);
            if index == 0 {
                continue;
            }
            let addresses = self.socket.dump(address::list(Some(family), index), |payload| {
                classify::address(scope, devices, &Address::read(payload)?)
            });
            let attempt = || format!("list the addresses of the {family} VXLAN device");
            state.extend(addresses.map_err(|refusal| explain(&attempt(), &refusal, None))?);
        }
        Ok(state)
    }

    pub(super) fn devices(&self) -> [u32; 2] {
        [self.device_index(Family::V4), self.device_index(Family::V6)]
    }

    /// The device and its settings. One of that name that is of another kind counts as absent: making
    /// ours then fails and says why.
    fn observe_device(&mut self, family: Family, wanted: &State, state: &mut State) -> Result<(), KernelError> {
        *self.device_slot(family) = None;
        let Some(name) = self.scope.device_name(family) else { return Ok(()) };
        let found = self.find_link(&name);
        let found = found.map_err(|refusal| explain(&format!("look at device {name}"), &refusal, None))?;
        let Some((link, object)) = found.and_then(|link| link.to_object(family).map(|object| (link, object))) else {
            return Ok(());
        };
        *self.device_slot(family) = Some(link);
        state.insert(Key::Device(family), object);
        for key in wanted.keys() {
            match key {
                Key::Setting(of, which) if *of == family => {
                    // What this kernel does not have is as good as set.
                    let value = setting::get(&name, *which)?.map(Object::Setting).or_else(|| wanted.get(key).cloned());
                    state.extend(value.map(|value| (*key, value)));
                }
                Key::Device(_) | Key::Setting(..) => {}
                _ => break,
            }
        }
        Ok(())
    }

    /// Reads a table in one or more dumps, and takes what `each` makes of the entries of each that are ours.
    pub(super) fn read_table<A: Default>(
        &mut self,
        table: Table,
        wanted: &State,
        each: impl Fn((Key, Object), &mut A),
        mut take: impl FnMut(A),
    ) -> Result<(), KernelError> {
        let devices = self.devices();
        match table {
            Table::Neighbours | Table::Forwarding => {
                for family in Family::ALL.into_iter().filter(|family| classify::index(devices, *family) != 0) {
                    let index = classify::index(devices, family);
                    let (request, what) = match table {
                        Table::Forwarding => (fdb::list(index), "forwarding entries"),
                        _ => (neighbour::list(family, index), "neighbours"),
                    };
                    let found = self.socket.fold(request, |payload, found| {
                        let ours = Neighbour::read(payload)
                            .filter(|entry| entry.index == index && entry.is_permanent())
                            .and_then(|entry| classify::neighbour(devices, &entry));
                        ours.into_iter().for_each(|entry| each(entry, found));
                    });
                    let attempt = || format!("list the {what} of the {family} VXLAN device");
                    take(found.map_err(|refusal| explain(&attempt(), &refusal, None))?);
                }
            }
            Table::Nexthops if self.nexthops && devices[0] != 0 => {
                let found = self.socket.fold(nexthop::list(devices[0]), |payload, found| {
                    let ours = Nexthop::read(payload)
                        .and_then(|nexthop| classify::nexthop(devices, &nexthop, |key| wanted.contains_key(key)));
                    ours.into_iter().for_each(|entry| each(entry, found));
                });
                take(found.map_err(|refusal| explain("list the nexthops", &refusal, None))?);
            }
            Table::Nexthops => {}
            Table::Routes => {
                for family in Family::ALL {
                    for protocol in [Route::FLANNEL_PROTOCOL, Route::PROTOCOL] {
                        let scope = &self.scope;
                        let found = self.socket.fold(route::list(family, Some(protocol)), |payload, found| {
                            let ours = Entry::read(payload).and_then(|entry| classify::route(scope, devices, &entry));
                            ours.into_iter().for_each(|entry| each(entry, found));
                        });
                        match found {
                            Err(Refusal { errno, .. }) if route::has_none(errno) => {}
                            found => take(found.map_err(|refusal| explain("list the routes", &refusal, None))?),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
