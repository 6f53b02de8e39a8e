//! The packet under way: reading its headers, making and taking room, writing.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_MASK, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_QUERY,
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_MARK_MANGLED_0,
        BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_csum_level, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_adjust_room,
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use flannel_common::Tuple;
use flannel_ebpf::{
    checksum,
    inner::{ETHERNET, TRANSPORT_WORDS},
};

/// An Ethernet frame with an IP header of `IP` words and the start of its transport header.
pub(crate) struct Frame<const IP: usize> {
    /// Destination, source, type; as they lie in memory.
    pub(crate) ethernet: [u16; 7],
    pub(crate) ip: [u32; IP],
    pub(crate) transport: [u32; TRANSPORT_WORDS],
}

/// An Ethernet frame with an IP header of `IP` words, UDP and VXLAN.
pub(crate) struct Tunnel<const IP: usize> {
    pub(crate) ethernet: [u16; 7],
    pub(crate) ip: [u32; IP],
    pub(crate) udp_vxlan: [u32; 4],
}

/// TCP's fixed header; UDP's.
const TRANSPORTS: (u32, u32) = (20, 8);

/// Flags for making room, whatever the family: the kernel's segment size stays, since it is the sender's business;
/// checksums that are known to be right stay so; 14 octets of Ethernet are inside.
const ENCAPSULATE: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64
    | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | ((ETHERNET as u64 & BPF_ADJ_ROOM_ENCAP_L2_MASK as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT);
const DECAPSULATE: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_NO_CSUM_RESET as u64;

/// A packet at a TC hook.
#[derive(Clone, Copy)]
pub(crate) struct Packet(*mut __sk_buff);

/// A helper of the kernel said no.
pub(crate) struct Refused;

impl Packet {
    #[inline(always)]
    pub(crate) fn new(context: &TcContext) -> Self {
        Self(context.skb.skb)
    }

    /// Octets from the Ethernet header on.
    #[inline(always)]
    pub(crate) fn length(self) -> u32 {
        // SAFETY: the context that the kernel called the program with; so for all fields below.
        unsafe { (*self.0).len }
    }

    /// Ethernet type.
    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        // SAFETY: see length.
        let protocol = unsafe { (*self.0).protocol };
        #[expect(clippy::cast_possible_truncation, reason = "sixteen bits in network byte order in a 32-bit field")]
        return u16::from_be(protocol as u16);
    }

    #[inline(always)]
    pub(crate) fn interface(self) -> u32 {
        // SAFETY: see length.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    pub(crate) fn has_vlan_tag(self) -> bool {
        // SAFETY: see length.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Copies its first octets; not if there are fewer. `to` has room for them.
    #[inline(always)]
    pub(crate) fn copy(self, to: *mut u8, octets: u32) -> bool {
        // SAFETY: see length; the verifier knows how much room there is.
        unsafe { bpf_skb_load_bytes(self.0.cast(), 0, to.cast(), octets) == 0 }
    }

    /// Payload of each segment that this packet will be cut into, or 0.
    #[inline(always)]
    pub(crate) fn segment(self) -> u32 {
        // SAFETY: see length.
        unsafe { (*self.0).gso_size }
    }

    /// The flow hash if somebody has made one already: TCP does, at the socket.
    #[inline(always)]
    pub(crate) fn hash(self) -> u32 {
        // SAFETY: see length.
        unsafe { (*self.0).hash }
    }

    /// The frame at an offset. A transport header shorter than TCP's is filled up with zeroes.
    #[inline(always)]
    pub(crate) fn frame<const IP: usize>(self, offset: u32) -> Option<Frame<IP>> {
        let (long, short) = (Self::ip_end(IP) + TRANSPORTS.0, Self::ip_end(IP) + TRANSPORTS.1);
        if self.length() >= offset + long {
            let start = self.reach(offset + long)? + offset as usize;
            return Some(Frame {
                ethernet: Self::halves(start),
                ip: Self::words(start + ETHERNET as usize),
                transport: Self::words(start + Self::ip_end(IP) as usize),
            });
        }
        let start = self.reach(offset + short)? + offset as usize;
        let [first, second] = Self::words(start + Self::ip_end(IP) as usize);
        Some(Frame {
            ethernet: Self::halves(start),
            ip: Self::words(start + ETHERNET as usize),
            transport: [first, second, 0, 0, 0],
        })
    }

    /// The outer headers.
    #[inline(always)]
    pub(crate) fn tunnel<const IP: usize>(self) -> Option<Tunnel<IP>> {
        let start = self.reach(Self::ip_end(IP) + 16)?;
        Some(Tunnel {
            ethernet: Self::halves(start),
            ip: Self::words(start + ETHERNET as usize),
            udp_vxlan: Self::words(start + Self::ip_end(IP) as usize),
        })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "5 or 10 words")]
    const fn ip_end(words: usize) -> u32 {
        ETHERNET + 4 * words as u32
    }

    /// Where its octets are, so many of them in one piece; not if there are fewer. Good until a helper changes the packet.
    #[inline(always)]
    fn reach(self, octets: u32) -> Option<usize> {
        // SAFETY: see length.
        unsafe {
            let start = (*self.0).data as usize;
            if start + octets as usize <= (*self.0).data_end as usize {
                return Some(start);
            }
            // Headers that lie in several pieces: the stack puts them together too.
            if bpf_skb_pull_data(self.0, octets) != 0 {
                return None;
            }
            let start = (*self.0).data as usize;
            (start + octets as usize <= (*self.0).data_end as usize).then_some(start)
        }
    }

    /// Words of the packet from an address on. The kernel loads the program only if they were reached before, and where its
    /// machine cannot read words from odd addresses, IP headers lie at even ones.
    #[inline(always)]
    fn words<const COUNT: usize>(address: usize) -> [u32; COUNT] {
        // SAFETY: the verifier sees to it.
        unsafe { *(address as *const [u32; COUNT]) }
    }

    /// The same of the Ethernet header.
    #[inline(always)]
    fn halves(address: usize) -> [u16; 7] {
        // SAFETY: as above.
        unsafe { *(address as *const [u16; 7]) }
    }

    /// Makes room for outer headers between Ethernet and IP. On refusal nothing has changed.
    #[inline(always)]
    pub(crate) fn grow(self, room: u32, v4: bool) -> Result<(), Refused> {
        let family = if v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        self.adjust(room.cast_signed(), ENCAPSULATE | u64::from(family))
    }

    /// Takes the outer headers away. On refusal nothing has changed.
    #[inline(always)]
    pub(crate) fn shrink(self, room: u32) -> Result<(), Refused> {
        self.adjust(-room.cast_signed(), DECAPSULATE)?;
        // What the interface said of the outer checksum does not hold for the inner one. Fails where it said nothing.
        // SAFETY: see length.
        unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_DEC)) };
        Ok(())
    }

    /// Somebody below has verified the outermost checksum.
    #[inline(always)]
    pub(crate) fn checksum_is_known_right(self) -> bool {
        // SAFETY: see length.
        unsafe { bpf_csum_level(self.0, u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    #[inline(always)]
    fn adjust(self, difference: i32, flags: u64) -> Result<(), Refused> {
        // SAFETY: see length.
        let outcome = unsafe { bpf_skb_adjust_room(self.0, difference, BPF_ADJ_ROOM_MAC, flags) };
        if outcome == 0 { Ok(()) } else { Err(Refused) }
    }

    /// Writes `length` octets from `skip` octets into `value` on.
    #[inline(always)]
    pub(crate) fn store<T>(self, offset: u32, value: &T, skip: usize, length: u32) -> Result<(), Refused> {
        let from = core::ptr::from_ref(value).cast::<u8>();
        // SAFETY: the callers' lengths are those of their structures.
        let outcome = unsafe { bpf_skb_store_bytes(self.0, offset, from.add(skip).cast(), length, 0) };
        if outcome == 0 { Ok(()) } else { Err(Refused) }
    }

    /// An interface that has summed up the whole packet (`CHECKSUM_COMPLETE`) is right about what is there now: some words
    /// changed. An IPv4 header needs none of this: right before and after, it adds nothing.
    #[inline(always)]
    pub(crate) fn words_changed(self, before: &[u32], after: &[u32]) {
        // SAFETY: see length. Refused where nobody has.
        unsafe { bpf_csum_update(self.0, checksum::difference(before, after)) };
    }

    /// Ports and transport checksum for other addresses and ports; the IP header is the caller's.
    #[inline(always)]
    pub(crate) fn translate(self, transport: u32, from: &Tuple, to: &Tuple) -> Result<(), Refused> {
        // TCP's checksum is at 16, UDP's at 6; one of zero is none and stays so.
        let (checksum, zero) =
            if from.protocol == 6 { (transport + 16, 0) } else { (transport + 6, u64::from(BPF_F_MARK_MANGLED_0)) };
        let address = u64::from(BPF_F_PSEUDO_HDR) | zero | 4;
        for word in 0..4 {
            self.replace(checksum, from.source.0[word], to.source.0[word], address)?;
            self.replace(checksum, from.destination.0[word], to.destination.0[word], address)?;
        }
        // The helper takes it that an IP header makes up for its addresses, which IPv6's does not.
        if !from.source.is_v4() {
            self.words_changed(&from.source.0, &to.source.0);
            self.words_changed(&from.destination.0, &to.destination.0);
        }
        if from.source_port == to.source_port && from.destination_port == to.destination_port {
            return Ok(());
        }
        self.replace(checksum, u32::from(from.source_port), u32::from(to.source_port), zero | 2)?;
        self.replace(checksum, u32::from(from.destination_port), u32::from(to.destination_port), zero | 2)?;
        self.store(transport, &[to.source_port, to.destination_port], 0, 4)
    }

    #[inline(always)]
    fn replace(self, checksum: u32, from: u32, to: u32, flags: u64) -> Result<(), Refused> {
        if from == to {
            return Ok(());
        }
        // SAFETY: see length.
        let outcome = unsafe { bpf_l4_csum_replace(self.0, checksum, u64::from(from), u64::from(to), flags) };
        if outcome == 0 { Ok(()) } else { Err(Refused) }
    }

    /// The verdict that sends it out of an interface.
    #[inline(always)]
    pub(crate) fn out_of(interface: u32) -> i32 {
        // SAFETY: takes numbers.
        verdict(unsafe { bpf_redirect(interface, 0) })
    }

    /// The verdict that hands it to whoever is at the other end of a veth.
    #[inline(always)]
    pub(crate) fn to_peer_of(interface: u32) -> i32 {
        // SAFETY: takes numbers.
        verdict(unsafe { bpf_redirect_peer(interface, 0) })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "TC_ACT_REDIRECT or TC_ACT_SHOT")]
const fn verdict(outcome: i64) -> i32 {
    outcome as i32
}
