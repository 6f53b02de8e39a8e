//! The BPF fast path: loading, pinning, attaching, and the maps that the programs read.
//!
//! Everything is pinned below one directory, so that it goes on without a daemon:
//!
//! - `maps-vN/NAME`: the maps, N being [`flannel_common::LAYOUT`]
//! - `links/HOOK-INDEX`: the attachment of one program to one interface; before Linux 6.6 the kernel keeps that as a
//!   filter of the interface instead
//!
//! A daemon that starts loads its own programs on the maps that are there, and puts them in the old ones' place
//! attachment by attachment, each atomically. Maps of another layout or size are left to the old programs and vanish
//! with them.

mod attach;
mod batch;
mod bpf;
mod clock;
mod clsact;
mod conntrack;
mod directory;
mod doubts;
mod error;
mod hooks;
#[cfg(test)]
mod hooks_tests;
mod link_info;
mod maps;
mod object;
mod ports;
mod table;
mod trace;
pub mod trial;

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use flannel_common::{Address, Peer, PodInterface, Settings};

use self::{directory::Directory, doubts::Doubts, hooks::Hooks, maps::Maps, object::Programs};
pub use self::{
    error::FastPathError,
    maps::{Sizes, counts, known_flows},
    object::{EMBEDDED, Hook, probe},
    trace::Tracing,
};
use super::KernelError;
use crate::{
    model::{Family, FastFamily, FastPathPolicy, Key, Object, Op, Place, State},
    traffic::Counts,
};

/// For how long the fast path goes on without a daemon. What it knows of peers grows old meanwhile: another daemon may be at
/// work, or none for good. Long enough for a restart that has to be seen to by hand; no packet is lost afterwards either,
/// since the kernel path carries them. On the monotonic clock, which stands still while the machine sleeps.
const TERM: Duration = Duration::from_mins(5);
/// How often that is put off.
const RENEWAL: Duration = Duration::from_secs(10);

/// The loaded programs and their maps.
pub struct FastPath {
    directory: Directory,
    hooks: Hooks,
    programs: Programs,
    maps: Maps,
    /// As written last.
    settings: Settings,
    policy: Option<FastPathPolicy>,
    doubts: Doubts,
}

/// Interface indexes that [`Place`]s stand for.
#[derive(Clone, Copy, Debug)]
pub struct Indexes {
    pub v4: u32,
    pub v6: u32,
}

impl Indexes {
    fn of(self, place: Place) -> u32 {
        match place {
            Place::Uplink(index) | Place::Pod(index) => index,
            Place::Vtep(Family::V4) => self.v4,
            Place::Vtep(Family::V6) => self.v6,
        }
    }
}

impl FastPath {
    /// Loads the programs on the maps below `directory`, and attaches nothing yet.
    pub fn open(directory: &Path, sizes: Sizes) -> Result<Self, FastPathError> {
        object::is_embedded()?;
        let directory = Directory::prepare(directory)?;
        let (programs, maps) = object::load(&directory, sizes)?;
        let settings = maps.settings()?;
        let (hooks, doubts) = (Hooks::of_this_kernel(), Doubts::default());
        Ok(Self { directory, hooks, programs, maps, settings, policy: None, doubts })
    }

    /// Detaches and forgets the programs and maps below `directory`, of whichever version. What was removed, in words.
    ///
    /// Connection tracking stays liberal: it has not seen all of the connections that go on.
    pub fn retire(directory: &Path) -> Result<Vec<String>, FastPathError> {
        let mut removed = directory::remove(directory)?;
        match clsact::remove()? {
            0 => {}
            interfaces => removed.push(format!("the BPF filters of {interfaces} interfaces")),
        }
        Ok(removed)
    }

    /// The same, and the directory, unless something has to be remembered there: that it was us who made connection tracking
    /// liberal, which is told beside.
    pub fn remove_alone(directory: &Path) -> Result<(Vec<String>, bool), FastPathError> {
        let mut removed = Self::retire(directory)?;
        let directory = Directory::at(directory);
        let liberal = conntrack::is_ours(&directory);
        if !liberal && directory.remove_itself()? {
            removed.push(directory.to_string());
        }
        Ok((removed, liberal))
    }

    /// The same as [`Self::retire`], and the host as it was before there was a fast path.
    pub fn remove(directory: &Path) -> Result<Vec<String>, FastPathError> {
        let mut removed = Self::retire(directory)?;
        let directory = Directory::at(directory);
        if conntrack::restore(&directory)? {
            removed.push("the setting nf_conntrack_tcp_be_liberal=1".into());
        }
        if directory.remove_itself()? {
            removed.push(directory.to_string());
        }
        Ok(removed)
    }

    /// How much is pinned below `directory`, of whichever version.
    pub fn pins(directory: &Path) -> Result<usize, FastPathError> {
        Directory::at(directory).pins()
    }

    /// Every flow has to be proved again: something that flows depend on has changed. At once, unless that was so very
    /// often lately: then [`Self::settle_doubts`] does it.
    pub fn doubt_flows(&mut self) -> Result<(), FastPathError> {
        self.doubts.raise();
        self.settle_doubts().map(drop)
    }

    /// Has the flows proved again if that is still owed and its time has come. How long until then; `None`: it is not owed.
    /// After an error it still is.
    pub fn settle_doubts(&mut self) -> Result<Option<Duration>, FastPathError> {
        let now = Instant::now();
        let Self { doubts, policy, settings, maps, .. } = self;
        doubts.settle(now, || {
            if policy.is_none() {
                return Ok(());
            }
            settings.epoch = settings.epoch.wrapping_add(1);
            maps.write_settings(settings)
        })?;
        Ok(doubts.wait(now))
    }

    /// Puts off the moment from which the programs leave everything to the kernel path, if it is time for that: for as long
    /// as this is called every few seconds it does not come.
    pub fn renew(&mut self) -> Result<(), FastPathError> {
        let due = deadline(clock::monotonic()).saturating_sub(nanoseconds(RENEWAL));
        if self.policy.is_none() || self.settings.deadline > due {
            return Ok(());
        }
        self.settings.deadline = deadline(clock::monotonic());
        self.maps.write_settings(&self.settings)
    }

    /// All counters.
    pub fn counts(&self) -> Result<Counts, FastPathError> {
        maps::counts_in(&self.directory)
    }

    /// Adds what is there to `out`.
    pub fn observe(&self, indexes: Indexes, out: &mut State) -> Result<(), KernelError> {
        let mut peers = Vec::new();
        self.each_peer(|key, object| peers.push((key, object)))?;
        out.extend(peers);
        self.observe_without_peers(indexes, out)
    }

    /// Tells of each peer.
    pub fn each_peer(&self, mut tell: impl FnMut(Key, Object)) -> Result<(), KernelError> {
        let told = self.maps.each_peer(|net, peer| tell(Key::FastPeer(net), object_of(&peer)));
        told.map_err(|error| error.into_kernel("look at the peers of the fast path".into()))
    }

    /// The same without the peers, which are many.
    pub fn observe_without_peers(&self, indexes: Indexes, out: &mut State) -> Result<(), KernelError> {
        // Programs go on with maps that somebody has unpinned, but nobody else can read them, and the next daemon would start anew.
        let pinned = maps::names().all(|name| self.directory.map(name).exists());
        if let Some(policy) = self.policy.as_ref().filter(|_| pinned) {
            out.insert(Key::FastPath, Object::FastPath(Box::new(policy.clone())));
        }
        for (place, attached) in self.hooks.places(&self.directory, indexes)? {
            let mtu = match place {
                Place::Pod(index) => self
                    .maps
                    .pod(index)
                    .map_err(|error| error.into_kernel("look at the pods of the fast path".into()))?
                    .map(|pod| pod.mtu),
                Place::Uplink(_) | Place::Vtep(_) => Some(0),
            };
            // Half of it is not it; but programs that tell of packets do the same.
            let whole = attached.len() == Hook::at(place).len()
                && (attached.iter().all(|(hook, program)| self.programs.id(*hook) == Some(*program))
                    || trace::is_under_way(&self.directory));
            // One that is not right shows up with an MTU that nobody wants, so that it is made right or taken away.
            let mtu = mtu.filter(|_| whole).unwrap_or(Object::ODD_ATTACHMENT);
            out.insert(Key::Attachment(place), Object::Attachment { mtu });
        }
        // Where nothing tracks connections, nothing is in the way.
        out.insert(Key::LiberalConntrack, Object::Setting(conntrack::is_liberal().unwrap_or(true)));
        Ok(())
    }

    /// Puts peers, as long as the ops do nothing else; one outcome each. A cluster's worth of them comes at once.
    pub fn put_peers(&mut self, ops: &[Op]) -> Vec<Result<(), FastPathError>> {
        let puts = ops.iter().map_while(|op| match (&op.key, &op.to) {
            (Key::FastPeer(net), Some(Object::FastPeer { outer, zero_checksum })) => {
                Some((Address::from(net.network()), peer(*outer, *zero_checksum)))
            }
            _ => None,
        });
        let (bases, peers): (Vec<_>, Vec<_>) = puts.unzip();
        self.maps.put_peers(&bases, &peers)
    }

    /// Carries out one change.
    pub fn apply(&mut self, op: &Op, indexes: Indexes) -> Result<(), FastPathError> {
        match (&op.key, &op.to) {
            (Key::FastPath, Some(Object::FastPath(policy))) => {
                self.directory.restore()?;
                self.programs.pin_maps(&self.directory)?;
                let mut settings = encode(policy)?;
                settings.epoch = self.settings.epoch.wrapping_add(1);
                self.maps.write_settings(&settings)?;
                self.settings = settings;
                self.policy = Some((**policy).clone());
                Ok(())
            }
            (Key::FastPath, None) => {
                self.settings.enabled = 0;
                self.maps.write_settings(&self.settings)?;
                self.policy = None;
                Ok(())
            }
            (Key::FastPeer(net), Some(Object::FastPeer { outer, zero_checksum })) => {
                self.maps.put_peer(Address::from(net.network()), peer(*outer, *zero_checksum))
            }
            (Key::FastPeer(net), None) => self.maps.remove_peer(Address::from(net.network())),
            (Key::Attachment(place), Some(Object::Attachment { mtu })) => {
                if let Place::Pod(index) = place {
                    self.maps.put_pod(*index, PodInterface::new(*mtu))?;
                }
                self.hooks.attach(&self.directory, &mut self.programs, *place, indexes.of(*place))
            }
            (Key::Attachment(place), None) => {
                if let Place::Pod(index) = place {
                    self.maps.remove_pod(*index)?;
                }
                self.hooks.detach(&self.directory, *place, indexes)
            }
            (Key::LiberalConntrack, Some(Object::Setting(on))) => conntrack::set_liberal(*on, &self.directory),
            // It goes back when everything goes.
            (Key::LiberalConntrack, None) => Ok(()),
            _ => Err(FastPathError::Mismatch(op.key)),
        }
    }
}

fn peer(outer: IpAddr, zero_checksum: bool) -> Peer {
    Peer { outer: outer.into(), flags: if zero_checksum { Peer::ZERO_CHECKSUM } else { 0 } }
}

fn object_of(peer: &Peer) -> Object {
    Object::FastPeer { outer: peer.outer.into(), zero_checksum: peer.flags & Peer::ZERO_CHECKSUM != 0 }
}

/// Of a daemon that lives now.
fn deadline(now: u64) -> u64 {
    now.saturating_add(nanoseconds(TERM))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The policy as the programs read it, epoch aside.
fn encode(policy: &FastPathPolicy) -> Result<Settings, FastPathError> {
    /// How long a flow that sends one way only may do so after its last answer.
    const MEMORY: u64 = 600_000_000_000;
    /// A request and its answer on a connection of their own are three packets each way, those aside that open and
    /// close it: learning such a flow costs more than it saves, and takes the place of one that lasts.
    const PATIENCE: u16 = 3;
    let family = |family: Option<FastFamily>| match family {
        Some(family) => flannel_common::FamilySettings {
            local: family.local.into(),
            mask: Address::mask(family.local.is_ipv4(), family.subnet_len),
            mtu: family.mtu,
            mac: family.mac,
            enabled: 1,
        },
        None => bytemuck::Zeroable::zeroed(),
    };
    let (first, last) = ports::local_range()?;
    Ok(Settings {
        validity: nanoseconds(policy.validity),
        memory: MEMORY,
        deadline: deadline(clock::monotonic()),
        tick: clock::tick(),
        epoch: 0,
        enabled: policy.enabled.into(),
        vni: policy.vni,
        first_port: first.into(),
        ports: u32::from(last.saturating_sub(first)),
        drop_forged: policy.drop_forged.into(),
        pod_rate: policy.pod_rate,
        port: policy.port.to_be(),
        patience: PATIENCE,
        v4: family(policy.v4),
        v6: family(policy.v6),
    })
}
