//! Every map but that of [`crate::sightings`], in BTF form, and the only code that touches their slots.

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use flannel_common::{
    Address, Counter, EgressFlow, FamilySettings, IngressFlow, Peer, PodInterface, Settings, Tuple, state,
};
use flannel_ebpf::inner::{Inner, Mark};

use crate::packet::Packet;

/// Sizes are the loader's to set; these are for whoever loads the object as it is.
const FLOWS: usize = 65_536;
const PEERS_MAX: usize = 16_384;
const PODS_MAX: usize = 1_024;

#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
static TUNNELLED: PerCpuArray<u64, { Counter::TUNNELLED as usize }> = PerCpuArray::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static PEERS: HashMap<Address, Peer, PEERS_MAX> = HashMap::new();
#[btf_map]
static PODS: HashMap<u32, PodInterface, PODS_MAX> = HashMap::new();
#[btf_map]
static EGRESS: LruHashMap<Tuple, EgressFlow, FLOWS> = LruHashMap::new();
#[btf_map]
static INGRESS: LruHashMap<Tuple, IngressFlow, FLOWS> = LruHashMap::new();
#[btf_map]
static PENDING_EGRESS: PerCpuArray<Pending, 1> = PerCpuArray::new();
#[btf_map]
static PENDING_INGRESS: PerCpuArray<Pending, 1> = PerCpuArray::new();
/// The least that kernels of all page sizes take, as long as nobody traces.
#[btf_map]
pub(crate) static TRACE: RingBuf<(), 65_536> = RingBuf::new();
/// Where an [`EgressFlow`] is put together: it would take half of the stack.
#[btf_map]
static EGRESS_DRAFT: PerCpuArray<EgressFlow, 1> = PerCpuArray::new();

/// The packet that entered the host's stack last on this CPU. Whoever sees a packet with the same mark leave
/// the stack before another has entered sees the same packet: in between everything runs in one softirq.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pending {
    tuple: Tuple,
    mark: Mark,
    interface: u32,
    /// Ethernet destination.
    gateway: [u16; 3],
    armed: Armed,
    ttl: u8,
    tos: u8,
    reserved: u16,
    /// Octets of the first packet that it may be cut into on its way; 0: it may not.
    cut: u32,
    /// Why the fast path left it to the stack.
    why: Counter,
    /// The first two words of the mark of a packet that comes here next and has been looked at already.
    announced: [u32; 2],
    /// What there is to say of it.
    because: Counter,
}

/// No packet's: none is as short.
const NOBODYS: [u32; 2] = [0, 0];

/// What is in the slot.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Armed {
    Nothing,
    /// A packet whose flow may be learned.
    Flow,
    /// A packet that is only counted; of its mark, the first two words.
    Header,
}

/// Which way a packet goes through the host's stack.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// From a pod into the tunnel.
    Egress,
    /// Out of the tunnel to a pod.
    Ingress,
}

impl Way {
    #[inline(always)]
    fn pending(self) -> Option<*mut Pending> {
        match self {
            Self::Egress => PENDING_EGRESS.get_ptr_mut(0),
            Self::Ingress => PENDING_INGRESS.get_ptr_mut(0),
        }
    }

    /// Remembers a packet that the stack gets to decide over.
    #[inline(always)]
    pub(crate) fn entered(self, packet: Packet, ethernet: &[u16; 7], inner: &Inner, why: Counter) {
        if let Some(slot) = self.pending() {
            let armed = Armed::Flow;
            let Inner { tuple, mark, ttl, tos, .. } = *inner;
            let gateway = [ethernet[0], ethernet[1], ethernet[2]];
            let interface = packet.interface();
            let segment = packet.segment();
            let cut = if segment == 0 { 0 } else { inner.largest(segment) };
            // SAFETY: this CPU's slot, which no other program writes while this one runs: both run in softirq.
            unsafe {
                *slot = Pending {
                    tuple,
                    mark,
                    interface,
                    gateway,
                    armed,
                    ttl,
                    tos,
                    reserved: 0,
                    cut,
                    why,
                    announced: NOBODYS,
                    because: why,
                };
            }
        }
    }

    /// Another packet comes along on this CPU: it is not to be taken for what entered last, which may have been dropped.
    #[inline(always)]
    pub(crate) fn disarm(self) {
        if let Some(slot) = self.pending() {
            // SAFETY: as above.
            unsafe { (*slot).armed = Armed::Nothing };
        }
    }

    /// Remembers a packet whose flow cannot be learned, to be counted where it takes the tunnel.
    #[inline(always)]
    pub(crate) fn passed(self, header: [u32; 2], why: Counter) {
        if let Some(slot) = self.pending() {
            // SAFETY: as above.
            unsafe {
                (*slot).mark.0[0] = header[0];
                (*slot).mark.0[1] = header[1];
                (*slot).armed = Armed::Header;
                (*slot).why = why;
            }
        }
    }

    /// The packet with this header comes here next, and there is nothing to learn from it: nobody needs to look at it again.
    #[inline(always)]
    pub(crate) fn announce(self, header: [u32; 2], because: Counter) {
        if let Some(slot) = self.pending() {
            // SAFETY: as above.
            unsafe {
                (*slot).announced[0] = header[0];
                (*slot).announced[1] = header[1];
                (*slot).because = because;
            }
        }
    }

    /// Remembers a packet with this header as `passed` if it has been announced. Others may have the same header: then one is
    /// learned from a little later.
    #[inline(always)]
    pub(crate) fn passed_as_announced(self, header: [u32; 2]) -> bool {
        let Some(slot) = self.pending() else { return false };
        // SAFETY: as above.
        unsafe {
            if (*slot).announced[0] != header[0] || (*slot).announced[1] != header[1] {
                return false;
            }
            (*slot).announced[0] = NOBODYS[0];
            (*slot).announced[1] = NOBODYS[1];
            self.passed(header, (*slot).because);
        }
        true
    }

    /// The kernel path carried a pod's packet through the tunnel.
    #[inline(always)]
    pub(crate) fn tunnelled(self, why: Counter) {
        if let Some(slot) = TUNNELLED.get_ptr_mut(why.tunnelled_slot(matches!(self, Self::Ingress))) {
            // SAFETY: as in `count`.
            unsafe { *slot += 1 };
        }
    }

    /// Counts the packet that a learner has looked at, unless it was another than the one that entered: it took the
    /// kernel path for `why`, or because its flow cannot be learned.
    #[inline(always)]
    pub(crate) fn looked_at(self, lesson: Result<Option<Counter>, Counter>, why: Counter) {
        match lesson {
            Ok(None) | Err(Counter::LearnOther) => {}
            Ok(Some(_)) => self.tunnelled(why),
            Err(unlearned) => self.tunnelled(unlearned),
        }
    }

    /// Is there a packet that has entered and not left? Forgets it. With whether its flow may be learned.
    #[inline(always)]
    pub(crate) fn take(self) -> Option<(&'static Pending, bool)> {
        let slot = self.pending()?;
        // SAFETY: as above. The slot lives as long as the map, and is not written before the program ends.
        unsafe {
            let armed = (*slot).armed;
            if armed == Armed::Nothing {
                return None;
            }
            (*slot).armed = Armed::Nothing;
            Some((&*slot, armed == Armed::Flow))
        }
    }
}

impl Pending {
    pub(crate) fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    pub(crate) fn interface(&self) -> u32 {
        self.interface
    }

    pub(crate) fn gateway(&self) -> [u16; 3] {
        self.gateway
    }

    pub(crate) fn why(&self) -> Counter {
        self.why
    }

    /// Is it a packet that passed with this header?
    #[inline(always)]
    pub(crate) fn had(&self, header: [u32; 2]) -> bool {
        self.mark.0[0] == header[0] && self.mark.0[1] == header[1]
    }

    /// Is this it, one hop later, or the first that was cut off from it? If not, what that counts as.
    #[inline(always)]
    pub(crate) fn is(&self, inner: &Inner, segment: u32) -> Result<(), Counter> {
        let ([header, length, first, second], [its_header, its_length, its_first, its_second]) =
            (self.mark.0, inner.mark.0);
        let whole = length == its_length || (segment == 0 && self.cut == its_length);
        let same = header == its_header && first == its_first && second == its_second;
        if !whole || !same || self.tuple.protocol != inner.tuple.protocol {
            return Err(Counter::LearnOther);
        }
        if self.ttl != inner.ttl + 1 || self.tos != inner.tos {
            return Err(Counter::LearnChanged);
        }
        Ok(())
    }
}

/// Adds one to this CPU's slot.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.slot()) {
        // SAFETY: the helper returned this CPU's slot, which lives as long as the map; nobody else
        // writes it while the program runs on this CPU (a softirq program is not interrupted by itself).
        unsafe { *slot += 1 };
    }
}

/// What the daemon said; nothing before it has said anything.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.enabled != 0)
}

/// Who leased the subnet of this address.
#[inline(always)]
pub(crate) fn peer_of(address: &Address, family: &FamilySettings) -> Option<&'static Peer> {
    // SAFETY: the memory lives as long as the map. An entry that the daemon removes may be another's at once: then one
    // packet is judged by it.
    unsafe { PEERS.get(address.masked(family.mask)) }
}

#[inline(always)]
pub(crate) fn egress_flow(tuple: &Tuple) -> Option<*mut EgressFlow> {
    EGRESS.get_ptr_mut(tuple)
}

#[inline(always)]
pub(crate) fn ingress_flow(tuple: &Tuple) -> Option<*mut IngressFlow> {
    INGRESS.get_ptr_mut(tuple)
}

/// Is this still the flow of `tuple` that was filled at the time `filled`, and was it all the while? An element that LRU
/// evicts, or that somebody removes, is filled anew at once, from one end to the other, while others may be reading it.
/// `key` and `times` are the fields at both ends of the flow. Ask behind the last helper that took something of it: helpers
/// are what keeps the order.
#[inline(always)]
pub(crate) fn is_still(key: *const Tuple, tuple: &Tuple, times: [*const u64; 2], filled: u64) -> bool {
    let words = key.cast::<u32>();
    // SAFETY: a tuple is ten words without padding; the memory lives as long as the map, whoever's it is.
    let now = |word: usize| unsafe { words.add(word).read_volatile() };
    let [a, b] = tuple.source_port.to_ne_bytes();
    let [c, d] = tuple.destination_port.to_ne_bytes();
    let mut difference = now(8) ^ u32::from_ne_bytes([a, b, c, d]) | now(9) ^ tuple.protocol;
    for word in 0..4 {
        difference |= now(word) ^ tuple.source.0[word] | now(4 + word) ^ tuple.destination.0[word];
    }
    difference == 0 && now_in(times[0]) == filled && now_in(times[1]) == filled
}

/// A field of a flow as it is now.
#[inline(always)]
pub(crate) fn now_in(field: *const u64) -> u64 {
    // SAFETY: the memory lives as long as the map.
    unsafe { field.read_volatile() }
}

/// Where to put an egress flow together.
#[inline(always)]
pub(crate) fn egress_draft() -> Option<*mut EgressFlow> {
    EGRESS_DRAFT.get_ptr_mut(0)
}

/// Forgets both directions of a flow that this pod sends. Another pod's it cannot end.
#[inline(always)]
pub(crate) fn forget_egress(tuple: &Tuple, pod: u32) {
    if let Some(flow) = EGRESS.get_ptr(tuple) {
        // SAFETY: the memory lives as long as the map. If it is another flow's by now, that one is forgotten.
        let (owner, answers) = unsafe { ((*flow).pod, (*flow).wire.reversed()) };
        if owner != pod {
            return;
        }
        // That somebody else was faster is no failure.
        INGRESS.remove(answers).ok();
        EGRESS.remove(tuple).ok();
    }
}

/// Forgets both directions of a flow that comes out of the tunnel from this node. No other node can end it.
#[inline(always)]
pub(crate) fn forget_ingress(tuple: &Tuple, outer: &Address) {
    if let Some(flow) = INGRESS.get_ptr(tuple) {
        // SAFETY: the memory lives as long as the map. If it is another flow's by now, that one is forgotten.
        let (owner, answers) = unsafe { ((*flow).outer, (*flow).delivered.reversed()) };
        if owner != *outer {
            return;
        }
        EGRESS.remove(answers).ok();
        INGRESS.remove(tuple).ok();
    }
}

#[inline(always)]
pub(crate) fn insert_egress(tuple: &Tuple, flow: &EgressFlow) -> Result<(), Counter> {
    EGRESS.insert(tuple, flow, u64::from(BPF_ANY)).map_err(|_| Counter::LearnFull)
}

#[inline(always)]
pub(crate) fn insert_ingress(tuple: &Tuple, flow: &IngressFlow) -> Result<(), Counter> {
    INGRESS.insert(tuple, flow, u64::from(BPF_ANY)).map_err(|_| Counter::LearnFull)
}

/// The interface leads to a pod.
#[inline(always)]
pub(crate) fn pod(interface: u32) -> Option<*mut PodInterface> {
    PODS.get_ptr_mut(interface)
}

/// Marks the other direction as answered if it was proved not too long ago.
#[inline(always)]
pub(crate) fn pair_egress(delivered: &Tuple, wire: &Tuple, pod: u32, oldest: u64) -> u32 {
    let Some(other) = EGRESS.get_ptr_mut(delivered.reversed()) else { return 0 };
    // SAFETY: the memory lives as long as the map; the state is one aligned word. What it is compared by is read right
    // before: see `is_still`.
    unsafe {
        if (*other).wire != wire.reversed() || (*other).pod != pod || (*other).used.proved < oldest {
            return 0;
        }
        (*other).state |= state::PAIRED;
    }
    state::PAIRED
}

/// The same the other way round.
#[inline(always)]
pub(crate) fn pair_ingress(sent: &Tuple, wire: &Tuple, pod: u32, oldest: u64) -> u32 {
    let Some(other) = INGRESS.get_ptr_mut(wire.reversed()) else { return 0 };
    // SAFETY: as above.
    unsafe {
        if (*other).delivered != sent.reversed() || (*other).pod != pod || (*other).used.proved < oldest {
            return 0;
        }
        (*other).state |= state::PAIRED;
    }
    state::PAIRED
}
