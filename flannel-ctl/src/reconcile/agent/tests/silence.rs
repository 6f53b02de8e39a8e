//! Changes that nobody tells of: no notice reaches the loop here.

use super::*;
use crate::{
    kernel::{
        Notice,
        linux::{LinuxKernel, Scope},
        netlink::namespace::{bridge, ip, isolated},
    },
    plan::facts::Options,
};

/// What the peers' tables hold, in no order.
fn tables() -> Vec<String> {
    let mut lines: Vec<String> = [
        ip("route show proto 102"),
        ip("-6 route show proto 102"),
        ip("nexthop show"),
        ip("neigh show dev flannel.1 nud permanent"),
        ip("-6 neigh show dev flannel-v6.1 nud permanent"),
        bridge("fdb show dev flannel.1"),
        bridge("fdb show dev flannel-v6.1"),
    ]
    .iter()
    .flat_map(|table| table.lines().map(str::to_owned))
    .collect();
    lines.sort();
    lines
}

fn becomes(what: &str, holds: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < limit, "timed out: {what}\n{:#?}", tables());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_silent_change_of_any_table_is_mended_by_the_sweep() {
    isolated(|| {
        ip("link add eth0 up type veth peer name far");
        ip("link set far up");
        ip("addr add 10.200.1.2/16 dev eth0");
        ip("addr add fd00::1/64 dev eth0 nodad");
        let mut facts = facts(true);
        facts.uplink.index = nix::net::if_::if_nametoindex("eth0").unwrap();
        facts.options = Options { nexthops: true, ..Options::default() };
        let kernel = LinuxKernel::new(Scope::default()).unwrap();
        let (start, report_rx) = start(facts.clone(), &Readiness::new());
        let mut agent = Agent::new(kernel, TestHost::new(&facts), start);
        agent.sweep.every = Duration::from_millis(200);
        let (wake_tx, wake_rx) = mpsc::channel::<Wake<Notice>>();
        let thread = std::thread::spawn(move || agent.run(&wake_rx));
        wake_tx.send(Wake::Source(Event::Snapshot((2..=20).map(|n| record(n, true)).collect()))).unwrap();
        becomes("all is in place", || {
            let report = report_rx.borrow();
            report.state == Condition::Converged && report.peers.programmed == 19
        });
        let before = tables();
        let by_ip: &dyn Fn(&str) -> String = &ip;
        for (tool, damage) in [
            (by_ip, "route del 10.244.5.0/24"),
            (&ip, "route replace 10.244.5.0/24 via 10.244.5.0 dev flannel.1 onlink proto 102"),
            (&ip, "-6 route del fc00:0:0:5::/64"),
            (&ip, "neigh del 10.244.5.0 dev flannel.1"),
            (&ip, "neigh replace 10.244.5.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent"),
            (&ip, "-6 neigh del fc00:0:0:5:: dev flannel-v6.1"),
            (&ip, "nexthop del id 183764224"),
            (&bridge, "fdb del 02:00:00:00:00:05 dev flannel.1 self"),
            (&bridge, "fdb del 02:00:00:00:00:05 dev flannel-v6.1 self"),
            (&bridge, "fdb replace 02:00:00:00:00:05 dev flannel.1 dst 10.200.9.9 self permanent"),
        ] {
            let changes = report_rx.borrow().counters.changes;
            tool(damage);
            becomes(damage, || report_rx.borrow().counters.changes > changes && tables() == before);
        }
        wake_tx.send(Wake::Stop).unwrap();
        thread.join().unwrap();
    });
}
