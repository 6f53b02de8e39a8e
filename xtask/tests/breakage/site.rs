//! A cluster with traffic on which one thing after another is broken.

use std::time::{Duration, Instant};

use xtask::lab::{Cluster, Dump, Family, Ping, PingReport, Stopwatch, wait};

use crate::strangers;

/// A missed notice would be made up for by the sweep, 8 to 10 s after the last look.
const BEFORE_THE_SWEEP: Duration = Duration::from_secs(5);

/// Three dual-stack nodes; node 1 is the one that suffers.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) before: Dump,
    strangers: Dump,
}

/// What a fault may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// The datapath itself was hurt.
    Packets,
    /// Not a single one.
    Nothing,
}

impl Site {
    pub(crate) fn start(prefix: &str) -> Self {
        Self::of(Cluster::builder(prefix).nodes(3).dual_stack().start().unwrap())
    }

    pub(crate) fn of(cluster: Cluster) -> Self {
        cluster.assert_whole();
        let netns = cluster.node(1).netns();
        strangers::move_in(netns);
        let site = Self { before: Dump::of(netns).unwrap(), strangers: strangers::dump(netns), cluster };
        let seen = ["device ", "fdb ", "neighbour ", "route "].map(|of| site.before.only(of).len());
        assert!(seen.iter().all(|lines| *lines > 1), "{}", site.before);
        site.wait_quiet();
        site
    }

    pub(crate) fn run(&self, line: &str) {
        self.cluster.node(1).netns().run(line).unwrap();
    }

    /// Until `ip` is done with it: the daemon fills while it empties, and an entry that is gone already ends it.
    pub(crate) fn flush(&self, what: &str) {
        wait::until(&format!("{what} flushed"), wait::LONG, || {
            self.cluster.node(1).netns().run(&format!("ip {what}")).ok()
        })
        .unwrap();
    }

    pub(crate) fn ip(&self, lines: &str) {
        self.cluster.node(1).netns().ip(lines).unwrap();
    }

    /// `ip route flush` of some versions fails on routes with nexthop objects.
    pub(crate) fn delete_routes(&self, shown: &str) {
        let routes = self.cluster.node(1).netns().run(&format!("ip {shown}")).unwrap();
        let lines = routes.lines().filter_map(|line| line.split(' ').next()).map(|net| format!("route del {net}"));
        let lines = lines.collect::<Vec<_>>();
        assert!(!lines.is_empty());
        self.ip(&lines.join("\n"));
    }

    /// Both families, both directions, two peers: one ping every millisecond each.
    pub(crate) fn traffic(&self) -> [Ping; 4] {
        let pings = [(1, 2, Family::V4), (3, 1, Family::V4), (1, 3, Family::V6), (2, 1, Family::V6)]
            .map(|(from, to, family)| self.cluster.ping(from, to, family).unwrap());
        for ping in &pings {
            ping.more(50).unwrap();
        }
        pings
    }

    /// Breaks something under traffic, and waits until the node is as it was before.
    pub(crate) fn mended(&self, what: &str, cost: Cost, breaking: impl FnOnce()) {
        self.mended_unless(what, cost, |_| true, breaking);
    }

    /// The same, leaving out lines of strangers that went with what was broken.
    pub(crate) fn mended_unless(&self, what: &str, cost: Cost, kept: impl Fn(&str) -> bool, breaking: impl FnOnce()) {
        let netns = self.cluster.node(1).netns();
        let sweeps = self.counter("sweeps");
        let pings = self.traffic();
        let watch = Stopwatch::start();
        breaking();
        let mut now = Dump::default();
        wait::until(what, wait::LONG, || {
            now = Dump::of(netns).ok()?;
            (now == self.before).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.before.difference(&now)));
        let (equal, unstalled) = (watch.elapsed(), watch.unstalled());
        for ping in &pings {
            ping.more(50).unwrap_or_else(|error| panic!("after {what}: {error}"));
        }
        let reports = pings.map(Ping::stop);
        let swept = self.counter("sweeps") != sweeps;
        println!("{what}: as before after {equal:.0?}{}; {}", if swept { " (swept)" } else { "" }, lost(&reports));
        assert!(unstalled < BEFORE_THE_SWEEP, "{what}: only after {equal:?}");
        assert!(!swept || unstalled < Duration::from_secs(1), "{what}: mended by the sweep after {equal:?}");
        for report in &reports {
            assert!(report.longest_gap < BEFORE_THE_SWEEP + watch.stalled(), "{what}: {report}");
            if cost == Cost::Nothing {
                report.assert_nothing_lost();
            }
        }
        let strangers = strangers::dump(netns);
        let expected = self.strangers.filter(kept);
        assert!(strangers == expected, "{what} cost others:\n{}", expected.difference(&strangers));
        self.wait_quiet();
        let settled = Dump::of(netns).unwrap();
        assert!(settled == self.before, "{what}: not for good\n{}", self.before.difference(&settled));
    }

    /// Waits until the daemon is converged and has nothing more to change, as it must after any repair.
    pub(crate) fn wait_quiet(&self) {
        let mut last = (self.counter("changes"), Instant::now());
        wait::until("the daemon to change nothing any more", wait::LONG, || {
            let changes = self.counter("changes");
            if changes != last.0 {
                last = (changes, Instant::now());
            }
            let status = self.cluster.node(1).status().ok()?;
            (status["state"] == "converged" && last.1.elapsed() > Duration::from_millis(300)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:#}", self.cluster.node(1).status().unwrap()));
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.cluster.node(1).status().unwrap()["counters"][name].as_u64().unwrap()
    }
}

pub(crate) fn lost(reports: &[PingReport]) -> String {
    let sent: u64 = reports.iter().map(|report| report.sent).sum();
    let lost: u64 = reports.iter().map(PingReport::lost).sum();
    let gap = reports.iter().map(|report| report.longest_gap).max().unwrap_or_default();
    format!("{lost} of {sent} lost, longest gap {gap:?}")
}
