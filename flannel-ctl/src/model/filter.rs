//! What the packet filter shall do, whatever tool carries it out.

use ipnet::IpNet;

/// Our rules as a whole. Which flavour (nftables or iptables) renders them is the host's affair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterPolicy {
    /// At most one per family.
    pub masquerade: Vec<Masquerade>,
    /// Networks whose forwarded packets are accepted, to and from.
    pub forward: Vec<IpNet>,
    pub guard: Option<GuardPolicy>,
}

/// flannel's masquerade rules for one family: `pkg/trafficmngr/iptables/iptables.go` has the order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Masquerade {
    /// The cluster-wide range.
    pub network: IpNet,
    /// Our own.
    pub subnet: IpNet,
    /// Destinations that shall see the pod's own address.
    pub exclude: Vec<IpNet>,
    /// Choose the source port at random (flannel's `--random-fully`).
    pub fully_random: bool,
}

/// Which tunnel packets may come in: only those from a peer, carrying that peer's range.
/// The pairs are [`super::Key::Guard`] objects of their own. And which may leave a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GuardPolicy {
    /// The tunnel's UDP port.
    pub port: u16,
    /// Our network's identifier: another overlay may share the port, and is not ours to judge. `None`: flannel's udp
    /// wire, which has none.
    pub vni: Option<u32>,
    /// Count only, drop nothing.
    pub count_only: bool,
    /// Prefix lengths that inner sources are cut to before they are looked up; `None`: family off. Without either, an
    /// engine of ours judges what comes in.
    pub v4_len: Option<u8>,
    pub v6_len: Option<u8>,
    /// Where pods are, at most one per family: tunnel packets of theirs that are masqueraded would pass for this node's.
    pub pods: Vec<IpNet>,
}

impl GuardPolicy {
    /// What comes in is judged, and not only what pods send.
    pub const fn judges_peers(&self) -> bool {
        self.v4_len.is_some() || self.v6_len.is_some()
    }
}
