//! Counters that the BPF programs keep, one slot each in a per-CPU array.

/// Name of the per-CPU array of `u64` that [`Counter`] indexes.
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the per-CPU array of `u64` that counts the pods' packets which the kernel path carried through the tunnel,
/// by why the fast path did not: see [`Counter::tunnelled_slot`].
pub const TUNNELLED_MAP: &str = "TUNNELLED";

/// An enum of counters: a line of documentation, a name, where slots are numbered its slot, and a label for each.
#[macro_export]
macro_rules! counters {
    (
        $(#[$attribute:meta])* pub enum $counters:ident;
        $(#[doc = $doc:literal] $name:ident $(= $slot:literal)?, $label:literal;)*
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $counters {
            $(#[doc = $doc] $name $(= $slot)?,)*
        }

        impl $counters {
            /// All of them, in the order of output.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// Stable name for output and metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Which group it belongs to, and what it counts, in words: `Egress: a fragment.`
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $doc.trim_ascii(),)*
                }
            }
        }
    };
}

counters! {
    /// What a slot counts: each packet that a program decides over counts in exactly one.
    #[repr(u32)]
    pub enum Counter;

    /// Egress: encapsulated and sent out of the uplink.
    EgressFast = 0, "egress_fast";
    /// Egress: switched off.
    EgressDisabled = 1, "egress_disabled";
    /// Egress: no daemon has been at work for minutes.
    EgressDeserted = 2, "egress_no_daemon";
    /// Egress: not IPv4 or IPv6, or the family has no overlay.
    EgressFamily = 3, "egress_family";
    /// Egress: headers that contradict each other or the packet's length.
    EgressMalformed = 4, "egress_malformed";
    /// Egress: IPv4 options or IPv6 extension headers.
    EgressOptions = 5, "egress_options";
    /// Egress: a fragment.
    EgressFragment = 6, "egress_fragment";
    /// Egress: neither TCP nor UDP.
    EgressProtocol = 7, "egress_protocol";
    /// Egress: time to live at its end.
    EgressTtl = 8, "egress_ttl";
    /// Egress: TCP SYN, FIN or RST.
    EgressControl = 9, "egress_tcp_control";
    /// Egress: no such flow is known, or it goes elsewhere than into the tunnel.
    EgressUnknown = 10, "egress_unknown";
    /// Egress: it is time to prove the flow again.
    EgressExpired = 11, "egress_expired";
    /// Egress: no answer has been seen yet.
    EgressUnpaired = 12, "egress_one_way";
    /// Egress: another interface than the one that the flow belongs to.
    EgressMoved = 13, "egress_other_interface";
    /// Egress: larger than what fits through the tunnel.
    EgressTooBig = 14, "egress_too_big";
    /// Egress: the kernel would not make room for the outer headers.
    EgressRefused = 15, "egress_refused";
    /// Egress: a VLAN tag.
    EgressVlan = 16, "egress_vlan";
    /// Egress: larger than what the kernel path has let through of its flow lately.
    EgressLarger = 17, "egress_larger";
    /// Egress: another DSCP than the kernel path has let through of its flow.
    EgressDscp = 18, "egress_dscp";
    /// Egress: to another Ethernet address than the one that routes its flow.
    EgressGateway = 19, "egress_other_gateway";

    /// Ingress: decapsulated and handed to a pod.
    IngressFast = 20, "ingress_fast";
    /// Ingress: switched off.
    IngressDisabled = 21, "ingress_disabled";
    /// Ingress: no daemon has been at work for minutes.
    IngressDeserted = 22, "ingress_no_daemon";
    /// Ingress: not a tunnel packet for this node.
    IngressOther = 23, "ingress_not_tunnel";
    /// Ingress: a tunnel packet whose outer headers need the kernel: options, fragments, lengths that disagree.
    IngressOuter = 24, "ingress_outer";
    /// Ingress: a tunnel packet whose UDP checksum nobody has verified yet.
    IngressChecksum = 25, "ingress_checksum";
    /// Ingress: a tunnel packet with a VLAN tag.
    IngressVlan = 26, "ingress_vlan";
    /// Ingress: VXLAN flags other than a plain network identifier.
    IngressFlags = 27, "ingress_vxlan_flags";
    /// Ingress: another network identifier.
    IngressVni = 28, "ingress_vni";
    /// Ingress: inner frame not for our VTEP address.
    IngressMac = 29, "ingress_vtep_mac";
    /// Ingress: the inner frame is of another family than the tunnel.
    IngressFamily = 30, "ingress_family";
    /// Ingress: headers that contradict each other or the packet's length.
    IngressMalformed = 31, "ingress_malformed";
    /// Ingress: inner IPv4 options or IPv6 extension headers.
    IngressOptions = 32, "ingress_options";
    /// Ingress: an inner fragment.
    IngressFragment = 33, "ingress_fragment";
    /// Ingress: neither TCP nor UDP inside.
    IngressProtocol = 34, "ingress_protocol";
    /// Ingress: inner time to live at its end.
    IngressTtl = 35, "ingress_ttl";
    /// Ingress: TCP SYN, FIN or RST.
    IngressControl = 36, "ingress_tcp_control";
    /// Ingress: no such flow is known, or it does not end at a pod.
    IngressUnknown = 37, "ingress_unknown";
    /// Ingress: it is time to prove the flow again.
    IngressExpired = 38, "ingress_expired";
    /// Ingress: no packet of the other direction has been seen yet.
    IngressUnpaired = 39, "ingress_one_way";
    /// Ingress: another DSCP than the kernel path has let through of its flow.
    IngressDscp = 40, "ingress_dscp";
    /// Ingress: larger than what the pod's interface takes.
    IngressTooBig = 41, "ingress_too_big";
    /// Ingress: congestion marks that RFC 6040 wants dropped or told of.
    IngressEcn = 42, "ingress_ecn";
    /// Ingress: the outer source is not the node that leased the inner source; dropped, or only counted.
    IngressForged = 43, "ingress_forged";
    /// Ingress: the kernel would not strip the outer headers, or they are those of many datagrams in one piece.
    IngressRefused = 44, "ingress_refused";
    /// Both ways: changed already, and then lost for want of memory, or because its flow gave way to another meanwhile; dropped.
    Lost = 45, "lost";

    /// Learning: a flow into the tunnel was proved.
    LearnedEgress = 46, "learned_egress";
    /// Learning: a flow out of the tunnel was proved.
    LearnedIngress = 47, "learned_ingress";
    /// Learning: what left the node was not what the pod had just sent.
    LearnOther = 48, "learn_other_packet";
    /// Learning: netfilter changed more than addresses and ports.
    LearnChanged = 49, "learn_changed";
    /// Learning: the tunnel packet's other end is not the node that leased the subnet.
    LearnPeer = 50, "learn_unknown_peer";
    /// Learning: the pod had too many new flows this second.
    LearnRate = 51, "learn_pod_rate";
    /// Learning: not delivered to an interface known to lead to a pod.
    LearnPod = 52, "learn_not_a_pod";
    /// Learning: the map took no more.
    LearnFull = 53, "learn_full";
    /// Learning: over IPv6, the node that leased the subnet wants a UDP checksum, which the fast path cannot make.
    LearnChecksum = 54, "learn_peer_wants_checksum";
}

impl Counter {
    /// How many slots the map has.
    #[expect(clippy::cast_possible_truncation, reason = "there are a few dozen")]
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Slot number in the map.
    pub const fn slot(self) -> u32 {
        self as u32
    }

    /// How many slots [`TUNNELLED_MAP`] has.
    pub const TUNNELLED: u32 = 2 * Self::COUNT;

    /// Slot number in [`TUNNELLED_MAP`]: what pods sent, then what they were sent.
    pub const fn tunnelled_slot(self, received: bool) -> u32 {
        self.slot() + if received { Self::COUNT } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn slots_are_the_positions_and_labels_are_unique() {
        for (at, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.slot() as usize, at, "{counter:?}");
        }
        let labels: BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.label()).collect();
        assert_eq!(labels.len(), Counter::ALL.len());
    }

    #[test]
    fn every_description_names_its_group() {
        for counter in Counter::ALL {
            let (group, text) = counter.description().split_once(": ").unwrap_or_default();
            assert!(["Egress", "Ingress", "Both ways", "Learning"].contains(&group), "{counter:?}");
            assert!(text.ends_with('.') && text.len() > 10, "{counter:?}");
        }
    }
}
