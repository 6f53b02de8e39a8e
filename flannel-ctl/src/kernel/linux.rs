//! The kernel of this network namespace.

mod apply;
mod classify;
mod cleanup;
mod device;
mod explain;
mod fast;
mod interpret;
mod neighbours;
mod observe;
mod route_count;
mod scope;
mod setting;
mod settle;
mod sweep;
mod table_sum;
#[cfg(test)]
mod tests;
mod tun;
mod userspace;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use nix::errno::Errno;

pub(super) use explain::explain;
use neighbours::Neighbours;
use route_count::RouteCount;
pub use scope::Scope;

use super::{
    Interpretation, Kernel, KernelError, Notice, PacketFilter,
    fastpath::FastPath,
    links,
    netlink::{
        link::{self, Link},
        nexthop,
        refusal::Refusal,
        socket::Socket,
    },
    userspace::Userspace,
};
use crate::{
    model::{Family, Op, PodLink, State},
    plan::Facts,
    serve::report::FilterReport,
    traffic::Counts,
    userspace::Statistics,
};

/// Observes and changes what is in our [`Scope`], and nothing else.
pub struct LinuxKernel {
    socket: Socket,
    scope: Scope,
    filter: Option<Box<dyn PacketFilter>>,
    fast: Option<FastPath>,
    userspace: Option<Userspace>,
    leaving: Option<Userspace>,
    nexthops: bool,
    /// Our tunnel devices as last seen.
    v4: Option<Link>,
    v6: Option<Link>,
    uplink: Underlay,
    /// Who is where on the uplink, as far as notices have told: flows remember the address that they are sent to.
    neighbours: Neighbours,
    /// How many routes there were when all of ours were in place last; `None`: some may have gone without a word since.
    routes: Option<RouteCount>,
}

/// The uplink as far as notices have told. It starts empty, so that the first notice of
/// anything counts as a change: whoever chose the uplink may have looked just before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Underlay {
    link: Option<Link>,
    /// With the flags that matter; `None`: gone.
    addresses: BTreeMap<IpNet, Option<u32>>,
}

impl LinuxKernel {
    /// Opens the socket; changes nothing.
    pub fn new(scope: Scope) -> Result<Self, KernelError> {
        let mut socket = Socket::open().map_err(|refusal| explain("open a netlink socket", &refusal, None))?;
        let nexthops = probe_nexthops(&mut socket)?;
        Ok(Self {
            socket,
            scope,
            filter: None,
            fast: None,
            userspace: None,
            leaving: None,
            nexthops,
            v4: None,
            v6: None,
            uplink: Underlay::default(),
            neighbours: Neighbours::default(),
            routes: None,
        })
    }

    /// Who carries out the packet filter's share. Without one it is left alone.
    #[must_use]
    pub fn with_filter(mut self, filter: Box<dyn PacketFilter>) -> Self {
        self.filter = Some(filter);
        self
    }

    /// What carries out the fast path's share. Without it, no such object may be wanted.
    #[must_use]
    pub fn with_fast_path(mut self, fast: FastPath) -> Self {
        self.fast = Some(fast);
        self
    }

    /// What carries out the userspace datapath's share. Without it, no such object may be wanted.
    #[must_use]
    pub fn with_userspace(mut self, userspace: Userspace) -> Self {
        self.userspace = Some(userspace);
        self
    }

    /// The userspace datapath that this node had before: it carries packets until something takes its device's place.
    #[must_use]
    pub fn with_leaving(mut self, userspace: Userspace) -> Self {
        self.leaving = Some(userspace);
        self
    }

    /// What is ours from now on.
    pub fn set_scope(&mut self, scope: Scope) {
        if (self.scope.vni, self.scope.udp) != (scope.vni, scope.udp) {
            (self.v4, self.v6) = (None, None);
        }
        if self.scope.uplink != scope.uplink {
            self.uplink = Underlay::default();
            self.neighbours = Neighbours::default();
        }
        self.scope = scope;
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The kernel has nexthop objects (5.3 and later).
    pub fn supports_nexthops(&self) -> bool {
        self.nexthops
    }

    /// Netlink port of what this does: for [`super::monitor::spawn`], which then tells only of
    /// what others do.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    fn device(&self, family: Family) -> Option<&Link> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    fn device_slot(&mut self, family: Family) -> &mut Option<Link> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Index of the VXLAN device; 0 while there is none.
    fn device_index(&self, family: Family) -> u32 {
        self.device(family).map_or(0, |link| link.index)
    }

    /// The device of that name, whatever it is.
    fn find_link(&mut self, name: &str) -> Result<Option<Link>, Refusal> {
        match self.socket.ask(&[link::get_by_name(name)], Link::read).remove(0) {
            Ok(link) => Ok(Some(link)),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }
}

impl Kernel for LinuxKernel {
    type Notice = Notice;

    const PARTS: usize = Self::PARTS;
    const SILENT: usize = Self::SILENT;

    fn set_facts(&mut self, facts: &Facts) {
        self.set_scope(Scope::from(facts));
    }

    fn interpret(&mut self, notice: Notice) -> Interpretation {
        self.meaning_of(&notice)
    }

    fn begin_pass(&mut self) {
        if let Some(filter) = &mut self.filter {
            filter.begin_pass();
        }
        if let Some(userspace) = &mut self.userspace {
            userspace.keep_soon();
        }
    }

    fn observe(&mut self, wanted: &State) -> Result<State, KernelError> {
        self.observe_all(wanted)
    }

    fn is_still(&mut self, part: usize, known: &State, wanted: &State) -> Result<bool, KernelError> {
        self.sweep(part, known, wanted)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let outcomes = self.apply_all(ops);
        if ops.iter().any(fast::unsettles) {
            self.doubt_all_flows();
        }
        outcomes
    }

    fn filter_report(&mut self, wanted: &State) -> FilterReport {
        self.filter.as_mut().map(|filter| filter.report(wanted)).unwrap_or_default()
    }

    fn fast_path_counts(&mut self) -> Option<Result<Counts, KernelError>> {
        let read = |fast: &FastPath| {
            fast.counts().map_err(|error| error.into_kernel("read the counters of the fast path".into()))
        };
        self.fast.as_ref().map(read)
    }

    fn fast_path(&mut self) -> Option<Result<State, KernelError>> {
        self.observe_silent()
    }

    fn engine_statistics(&mut self) -> BTreeMap<Family, Statistics> {
        self.userspace.as_ref().map(Userspace::statistics).unwrap_or_default()
    }

    fn pods(&mut self) -> Result<BTreeMap<u32, PodLink>, KernelError> {
        self.list_pods()
    }

    fn doubt_flows(&mut self) {
        self.doubt_all_flows();
    }

    fn settle_doubts(&mut self) -> Option<Duration> {
        self.settle_all_doubts()
    }

    fn renew_fast_path(&mut self) {
        self.renew_deadline();
    }

    fn takes_zero_checksum(&self) -> bool {
        self.v6.as_ref().and_then(|link| link.vxlan).is_some_and(|vxlan| vxlan.zero_checksum)
    }

    fn on_link(&mut self, addresses: &[IpAddr]) -> Vec<Result<bool, KernelError>> {
        links::on_link(&mut self.socket, self.scope.uplink, addresses)
    }
}

fn probe_nexthops(socket: &mut Socket) -> Result<bool, KernelError> {
    // A device that cannot be: the answer is an empty table, or that there is no such thing.
    match socket.dump(nexthop::list(u32::MAX >> 1), nexthop::Nexthop::read) {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.errno == Errno::EOPNOTSUPP => Ok(false),
        // "No such device" comes from the code that we ask after.
        Err(refusal) if matches!(refusal.errno, Errno::ENODEV | Errno::EINVAL) => Ok(true),
        Err(refusal) => Err(explain("ask whether the kernel has nexthop objects", &refusal, None)),
    }
}
