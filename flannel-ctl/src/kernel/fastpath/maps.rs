//! The maps, by what is in them.

use std::{net::IpAddr, path::Path};

use aya::maps::MapData;
use flannel_common::{
    Address, COUNTERS_MAP, Counter, EGRESS_MAP, EgressFlow, INGRESS_MAP, IngressFlow, PEERS_MAP, PODS_MAP, Peer,
    PodInterface, SETTINGS_MAP, Settings, TUNNELLED_MAP, Tuple,
};
use ipnet::IpNet;

use super::{
    FastPathError, clock,
    directory::{Directory, forget},
    table::{Hash, Single, pinned_sums},
};
use crate::traffic::{Counts, Known};

/// How many entries the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flows in each direction.
    pub flows: u32,
    pub peers: u32,
    pub pods: u32,
}

/// A map that is pinned, as this version wants it.
pub(super) struct Pinned {
    pub(super) name: &'static str,
    pub(super) entries: u32,
    key: usize,
    value: usize,
}

pub(super) fn pinned(sizes: Sizes) -> [Pinned; 7] {
    let map = |name, entries, key, value| Pinned { name, entries, key, value };
    [
        map(SETTINGS_MAP, 1, 4, size_of::<Settings>()),
        map(COUNTERS_MAP, Counter::COUNT, 4, 8),
        map(TUNNELLED_MAP, Counter::TUNNELLED, 4, 8),
        map(PEERS_MAP, sizes.peers, size_of::<Address>(), size_of::<Peer>()),
        map(PODS_MAP, sizes.pods, 4, size_of::<PodInterface>()),
        map(EGRESS_MAP, sizes.flows, size_of::<Tuple>(), size_of::<EgressFlow>()),
        map(INGRESS_MAP, sizes.flows, size_of::<Tuple>(), size_of::<IngressFlow>()),
    ]
}

/// Of the maps that are pinned.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    pinned(Sizes { flows: 1, peers: 1, pods: 1 }).into_iter().map(|map| map.name)
}

/// Gives up a pinned map of another shape: the programs that use it keep it until they are replaced.
pub(super) fn unpin_unlike(wanted: &Pinned, path: &Path) -> Result<(), FastPathError> {
    if !path.exists() {
        return Ok(());
    }
    let same = MapData::from_pin(path).and_then(|map| map.info()).is_ok_and(|info| {
        (info.max_entries(), info.key_size() as usize, info.value_size() as usize)
            == (wanted.entries, wanted.key, wanted.value)
    });
    if same {
        return Ok(());
    }
    forget(path)
}

/// The maps that the daemon writes.
pub(super) struct Maps {
    settings: Single<Settings>,
    peers: Hash<Address, Peer>,
    pods: Hash<u32, PodInterface>,
}

impl Maps {
    pub(super) fn open(directory: &Directory) -> Result<Self, FastPathError> {
        Ok(Self {
            settings: Single::open(SETTINGS_MAP, &directory.map(SETTINGS_MAP))?,
            peers: Hash::open(PEERS_MAP, &directory.map(PEERS_MAP), false)?,
            pods: Hash::open(PODS_MAP, &directory.map(PODS_MAP), false)?,
        })
    }

    pub(super) fn settings(&self) -> Result<Settings, FastPathError> {
        self.settings.get()
    }

    pub(super) fn write_settings(&mut self, settings: &Settings) -> Result<(), FastPathError> {
        self.settings.set(*settings)
    }

    /// Tells all of them, as networks: the programs know only base addresses, whose length is in the settings.
    pub(super) fn each_peer(&self, mut tell: impl FnMut(IpNet, Peer)) -> Result<(), FastPathError> {
        let settings = self.settings()?;
        let ones = |mask: Address| u8::try_from(bytemuck::cast::<_, u128>(mask.0).count_ones()).unwrap_or(128);
        let (v4, v6) = (ones(settings.v4.mask).saturating_sub(96), ones(settings.v6.mask));
        self.peers.each(|base, peer| {
            let base = IpAddr::from(base);
            if let Ok(net) = IpNet::new(base, if base.is_ipv4() { v4 } else { v6 }) {
                tell(net, peer);
            }
        })
    }

    pub(super) fn put_peer(&mut self, base: Address, peer: Peer) -> Result<(), FastPathError> {
        self.peers.put(base, peer)
    }

    pub(super) fn put_peers(&mut self, bases: &[Address], peers: &[Peer]) -> Vec<Result<(), FastPathError>> {
        self.peers.put_all(bases, peers)
    }

    pub(super) fn remove_peer(&mut self, base: Address) -> Result<(), FastPathError> {
        self.peers.remove(base)
    }

    pub(super) fn pod(&self, interface: u32) -> Result<Option<PodInterface>, FastPathError> {
        self.pods.get(interface)
    }

    pub(super) fn put_pod(&mut self, interface: u32, pod: PodInterface) -> Result<(), FastPathError> {
        self.pods.put(interface, pod)
    }

    pub(super) fn remove_pod(&mut self, interface: u32) -> Result<(), FastPathError> {
        self.pods.remove(interface)
    }
}

/// All counters of the fast path pinned below `directory`.
pub fn counts(directory: &Path) -> Result<Counts, FastPathError> {
    counts_in(&Directory::existing(directory)?)
}

pub(super) fn counts_in(directory: &Directory) -> Result<Counts, FastPathError> {
    let sums = |name| pinned_sums(name, &directory.map(name));
    Ok(Counts::new(sums(COUNTERS_MAP)?, sums(TUNNELLED_MAP)?))
}

/// The flows that the fast path pinned below `directory` knows. One that ends while this is read may be missing.
pub fn known_flows(directory: &Path) -> Result<Known, FastPathError> {
    /// A table that is renewed faster than it is read would be read for ever.
    const MOST: usize = 1 << 22;
    let directory = Directory::existing(directory)?;
    let settings = Single::open(SETTINGS_MAP, &directory.map(SETTINGS_MAP))?.get()?;
    let egress = Hash::open(EGRESS_MAP, &directory.map(EGRESS_MAP), true)?;
    let ingress = Hash::open(INGRESS_MAP, &directory.map(INGRESS_MAP), true)?;
    Ok(Known {
        settings,
        egress: egress.entries().take(MOST).collect::<Result<_, _>>()?,
        ingress: ingress.entries().take(MOST).collect::<Result<_, _>>()?,
        now: clock::monotonic(),
    })
}
