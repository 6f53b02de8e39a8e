//! Reading back everything that is ours.

use super::{LinuxKernel, classify, explain, setting};
use crate::{
    kernel::{
        KernelError,
        netlink::{
            address::{self, Address},
            fdb,
            neighbour::{self, Neighbour},
            nexthop::{self, Nexthop},
            route::{self, Entry},
            socket::Refusal,
        },
    },
    model::{Family, Key, Object, Route, State},
};

impl LinuxKernel {
    pub(super) fn observe_all(&mut self, wanted: &State) -> Result<State, KernelError> {
        let mut state = State::new();
        for family in Family::ALL {
            self.observe_device(family, wanted, &mut state)?;
        }
        let devices = self.devices();
        // Built into the map in one go: that is faster and takes half the room.
        let mut all = Vec::with_capacity(wanted.len());
        for family in Family::ALL {
            if classify::index(devices, family) != 0 {
                self.observe_on_device(family, devices, &mut all)?;
            }
        }
        if self.nexthops && devices[0] != 0 {
            let found = self.socket.dump(nexthop::list(devices[0]), |payload| {
                classify::nexthop(devices, &Nexthop::read(payload)?, |key| wanted.contains_key(key))
            });
            all.extend(found.map_err(|refusal| explain("list the nexthops", &refusal, None))?);
        }
        let mut wrong = Vec::new();
        for family in Family::ALL {
            for protocol in [Route::FLANNEL_PROTOCOL, Route::PROTOCOL] {
                self.observe_routes(family, protocol, devices, wanted, &mut all, &mut wrong)?;
            }
        }
        // Two of ours for one destination: the last one stays, so that what is wrong is mended.
        all.append(&mut wrong);
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
        all.extend(state);
        Ok(all.into_iter().collect())
    }

    pub(super) fn devices(&self) -> [u32; 2] {
        [self.device_index(Family::V4), self.device_index(Family::V6)]
    }

    /// The device and its settings. One of that name that is not VXLAN counts as absent: making
    /// ours then fails and says why.
    fn observe_device(&mut self, family: Family, wanted: &State, state: &mut State) -> Result<(), KernelError> {
        *self.device_slot(family) = None;
        let Some(name) = self.scope.device_name(family) else { return Ok(()) };
        let found = self.find_link(&name);
        let found = found.map_err(|refusal| explain(&format!("look at device {name}"), &refusal, None))?;
        let Some(link) = found.filter(|link| link.vxlan.is_some()) else { return Ok(()) };
        let Some(device) = link.to_device(family) else { return Ok(()) };
        *self.device_slot(family) = Some(link);
        state.insert(Key::Device(family), Object::Device(Box::new(device)));
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

    fn observe_on_device(
        &mut self,
        family: Family,
        devices: [u32; 2],
        all: &mut Vec<(Key, Object)>,
    ) -> Result<(), KernelError> {
        let index = classify::index(devices, family);
        let of = |what: &str| format!("list the {what} of the {family} VXLAN device");
        let scope = &self.scope;
        let addresses = self.socket.dump(address::list(Some(family), index), |payload| {
            classify::address(scope, devices, &Address::read(payload)?)
        });
        all.extend(addresses.map_err(|refusal| explain(&of("addresses"), &refusal, None))?);

        let permanent = |payload: &[u8]| {
            let entry = Neighbour::read(payload).filter(|entry| entry.index == index && entry.is_permanent())?;
            classify::neighbour(devices, &entry)
        };
        let neighbours = self.socket.dump(neighbour::list(family, index), permanent);
        all.extend(neighbours.map_err(|refusal| explain(&of("neighbours"), &refusal, None))?);
        let entries = self.socket.dump(fdb::list(index), permanent);
        all.extend(entries.map_err(|refusal| explain(&of("forwarding entries"), &refusal, None))?);
        Ok(())
    }

    fn observe_routes(
        &mut self,
        family: Family,
        protocol: u8,
        devices: [u32; 2],
        wanted: &State,
        right: &mut Vec<(Key, Object)>,
        wrong: &mut Vec<(Key, Object)>,
    ) -> Result<(), KernelError> {
        let scope = &self.scope;
        let found = self.socket.dump(route::list(family, Some(protocol)), |payload| {
            classify::route(scope, devices, &Entry::read(payload)?)
        });
        let found = match found {
            Err(Refusal { errno, .. }) if route::has_none(errno) => return Ok(()),
            found => found.map_err(|refusal| explain("list the routes", &refusal, None))?,
        };
        let (as_wanted, other): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(key, object)| wanted.get(key) == Some(object));
        right.extend(as_wanted);
        wrong.extend(other);
        Ok(())
    }
}
