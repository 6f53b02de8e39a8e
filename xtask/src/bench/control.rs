//! The control plane, measured from outside: when a lease is in the store, when the kernel has it.

use std::{
    collections::BTreeSet,
    fs,
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{Cluster, Launch, Memory, Node, StoreKind, cpu_time, wait};

use super::{
    ControlArgs,
    leases::{Fake, NETWORK, Watch, Writer},
    notices::{NEIGHBOURS, Notices, ROUTES, Seen, What},
    paper,
    samples::{Measure, Outcome, Setup, megabytes, millis},
    storm, usage,
};

/// Namespaces are `bench1`, `bench1-pod` and `bench-net`.
const PREFIX: &str = "bench";
const LIMIT: Duration = Duration::from_mins(1);
/// After a change, before memory is read.
const SETTLE: Duration = Duration::from_millis(1500);
/// Between two single changes: they shall not be taken in together.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn run(args: &ControlArgs) -> Result<ExitCode> {
    let mut args = args.clone();
    if args.quick {
        (args.leases, args.samples, args.storm, args.idle) = (vec![200], 2, 100, 1);
        args.guards.truncate(1);
    }
    let most = args.leases.iter().copied().max().context("no number of leases")?;
    let mut outcomes = Vec::new();
    for store in &args.stores {
        for guard in &args.guards {
            for &leases in &args.leases {
                let name = match store {
                    StoreKind::Embedded => "embedded".to_owned(),
                    StoreKind::Etcd => "etcd".to_owned(),
                    StoreKind::Url(url) | StoreKind::Given(url) => url.clone(),
                };
                let setup = Setup { store: name, leases, guard: guard.clone() };
                let measures = measure(&args, store, &setup, leases == most)
                    .with_context(|| format!("{} leases, store {}, guard {guard}", leases, setup.store))?;
                let outcome = Outcome { setup, measures };
                println!("{}", paper::table(&outcome));
                outcomes.push(outcome);
            }
        }
    }
    if args.save {
        paper::save(&outcomes)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &ControlArgs, store: &StoreKind, setup: &Setup, full: bool) -> Result<Vec<Measure>> {
    let launch = Launch {
        args: ["--log-format", "json", "--peer-guard", &setup.guard].map(str::to_owned).to_vec(),
        ..Launch::default()
    };
    let cluster =
        Cluster::builder(PREFIX).nodes(1).store(store.clone()).network(NETWORK).launches(vec![launch]).prepare()?;
    // Everything that talks to the store does so from its own namespace.
    cluster.underlay().netns().enter(|| {
        let endpoint = cluster.store().endpoint();
        let mut bench = Bench {
            node: cluster.node(1),
            writer: Writer::connect(&endpoint)?,
            watch: Watch::start(&endpoint)?,
            leases: setup.leases,
            samples: args.samples,
            // The bars are for ten thousand; what holds there has to hold below.
            measures: Vec::new(),
        };
        bench.writer.fill(0..setup.leases)?;
        bench.boot()?;
        bench.restart()?;
        bench.single_changes()?;
        if full {
            bench.idle(Duration::from_secs(args.idle))?;
        }
        let storm = storm::run(&bench.writer, &bench.watch, bench.node, setup.leases, args.storm)?;
        bench.measures.extend(storm);
        bench.memory("after the storm")?;
        Ok(bench.measures)
    })?
}

struct Bench<'a> {
    node: &'a Node,
    writer: Writer,
    watch: Watch,
    leases: usize,
    samples: usize,
    measures: Vec<Measure>,
}

impl Bench<'_> {
    /// A node that never was: no state, no lease, nothing in the kernel.
    fn boot(&mut self) -> Result<()> {
        let mut cold = Measure::new("cold boot: process start to all in kernel", "ms").bar(Some(1000.0));
        let mut snapshot = Measure::new("snapshot received to all in kernel", "ms").bar(Some(200.0));
        let mut own = Measure::new("of which the daemon's pass, as it reports it", "ms");
        let mut cpu = Measure::new("CPU of a cold boot", "ms").bar(Some(2000.0));
        let mut resident = Measure::new("resident memory after a cold boot", "MB").bar(Some(30.0));
        let mut peak = Measure::new("peak of it", "MB");
        let wanted: BTreeSet<What> = (0..self.leases).map(|n| What::Route(Fake::new(n).base())).collect();
        for sample in 0..self.samples {
            if sample > 0 {
                self.node.stop()?;
            }
            self.forget()?;
            let notices = Notices::start(self.node.netns(), ROUTES)?;
            let logged = self.node.log().len();
            let begun = Instant::now();
            self.node.start()?;
            let last = notices.all(wanted.clone(), LIMIT)?;
            cold.push(millis(last.at - begun));
            self.node.wait_ready()?;
            snapshot.push(self.since_snapshot(logged, &last)?);
            own.extend_from(self.converged()?);
            thread::sleep(SETTLE);
            cpu.push(millis(cpu_time(self.pid()?)?));
            let memory = Memory::of(self.pid()?)?;
            resident.push(megabytes(memory.resident_kb));
            peak.push(megabytes(memory.peak_kb));
        }
        self.check_kernel(self.leases)?;
        self.measures.extend([cold, snapshot, own, cpu, resident, peak]);
        Ok(())
    }

    /// With everything in place, there is nothing to do.
    fn restart(&mut self) -> Result<()> {
        let mut ready = Measure::new("restart with all in place: process start to ready", "ms");
        let mut touched = Measure::new("kernel objects that a restart touched", "").bar(Some(0.0));
        let mut cpu = Measure::new("CPU of a restart", "ms");
        for _ in 0..self.samples {
            self.node.stop()?;
            let notices = Notices::start(self.node.netns(), ROUTES | NEIGHBOURS)?;
            let begun = Instant::now();
            self.node.start()?;
            self.node.wait_ready()?;
            ready.push(millis(begun.elapsed()));
            thread::sleep(Duration::from_millis(200));
            cpu.push(millis(cpu_time(self.pid()?)?));
            touched.push(f64::from(u32::try_from(notices.count())?));
        }
        self.measures.extend([ready, touched, cpu]);
        Ok(())
    }

    /// One join, one change of a VTEP address, one leave, each on its own.
    fn single_changes(&mut self) -> Result<()> {
        let notices = Notices::start(self.node.netns(), ROUTES | NEIGHBOURS)?;
        let mut own = Measure::new("of which the daemon's pass, as it reports it", "ms");
        let of = |what: &str, bar| {
            [
                Measure::new(format!("{what}: event seen by another watcher to kernel"), "ms").bar(bar),
                Measure::new(format!("{what}: request sent to the store to kernel"), "ms"),
            ]
        };
        let (mut join, mut change, mut leave) = (of("join", Some(2.0)), of("change", None), of("leave", None));
        for sample in 0..self.samples {
            let fake = Fake::new(self.leases + sample);
            let moved = Fake { version: 1, ..fake };
            let wanted = [What::Route(fake.base())];
            self.once(&notices, &mut join, fake, &wanted, |writer| writer.put(fake))?;
            own.extend_from(self.converged()?);
            let wanted = [What::Neighbour(moved.mac()), What::Fdb(moved.mac()), What::FdbGone(fake.mac())];
            self.once(&notices, &mut change, moved, &wanted, |writer| writer.put(moved))?;
            let wanted = [What::RouteGone(fake.base())];
            self.once(&notices, &mut leave, moved, &wanted, |writer| writer.delete(moved))?;
        }
        let [join, join_sent] = join;
        self.measures.extend([join, own, join_sent].into_iter().chain(change).chain(leave));
        Ok(())
    }

    fn once(
        &mut self,
        notices: &Notices,
        into: &mut [Measure; 2],
        fake: Fake,
        wanted: &[What],
        write: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<()> {
        thread::sleep(PAUSE);
        let sent = Instant::now();
        write(&mut self.writer)?;
        let told = self.watch.wait(fake)?;
        let done = notices.all(wanted.iter().copied().collect(), LIMIT)?;
        // The daemon may have been told first, and be done by now.
        into[0].push(millis(done.at.saturating_duration_since(told.at)));
        into[1].push(millis(done.at - sent));
        Ok(())
    }

    /// What it costs to have nothing to do.
    fn idle(&mut self, time: Duration) -> Result<()> {
        thread::sleep(SETTLE);
        let before = usage::cpu_by_thread(self.pid()?)?;
        thread::sleep(time);
        let after = usage::cpu_by_thread(self.pid()?)?;
        let mut total = 0.0;
        for (name, used) in after {
            let then = before.iter().find(|(known, _)| *known == name).map_or(Duration::ZERO, |(_, then)| *then);
            let rate = millis(used.saturating_sub(then)) / time.as_secs_f64();
            total += rate;
            if rate > 0.01 {
                self.measures.push(Measure::one(format!("idle: CPU of thread {name}"), "ms/s", rate));
            }
        }
        self.measures.push(Measure::one("idle: CPU of all threads", "ms/s", total));
        Ok(())
    }

    fn memory(&mut self, when: &str) -> Result<()> {
        thread::sleep(SETTLE);
        let memory = Memory::of(self.pid()?)?;
        let one = |name: &str, kb| Measure::one(format!("{name} {when}"), "MB", megabytes(kb));
        self.measures.extend([
            one("resident memory", memory.resident_kb),
            one("anonymous part", memory.anonymous_kb),
            one("peak of resident memory", memory.peak_kb),
        ]);
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        self.node.pid().context("the daemon is not running")
    }

    /// Removes every trace of the node from kernel, disk and store.
    fn forget(&mut self) -> Result<()> {
        let netns = self.node.netns();
        if netns.run("ip link show flannel.1").is_ok() {
            netns.run("ip link del flannel.1")?;
        }
        netns.run("nft flush ruleset")?;
        for dir in [self.node.run_dir(), self.node.state_dir()] {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        self.writer.forget_the_node()
    }

    /// From the line in the log to that notice.
    fn since_snapshot(&self, logged: usize, last: &Seen) -> Result<f64> {
        let log = self.node.log();
        let mut lines = log.get(logged..).context("the log became shorter")?.lines();
        let line = lines.rfind(|line| line.contains("the source told its whole list"));
        let line: serde_json::Value = serde_json::from_str(line.context("no snapshot in the log")?)?;
        let stamp = line["timestamp"].as_str().and_then(seconds_of_day).context("a log line without time")?;
        let wall = last.wall.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() % 86_400.0;
        Ok((wall - stamp) * 1000.0)
    }

    fn converged(&self) -> Result<Option<f64>> {
        Ok(self.node.status()?["last_convergence_ms"].as_f64())
    }

    fn check_kernel(&self, peers: usize) -> Result<()> {
        let netns = self.node.netns();
        let count = |line: &str| netns.run(line).map(|text| text.lines().filter(|line| !line.is_empty()).count());
        for (what, line) in [
            ("routes", "ip -4 route show dev flannel.1 proto 102"),
            ("neighbours", "ip neighbour show dev flannel.1 nud permanent"),
            ("forwarding entries", "bridge fdb show dev flannel.1"),
        ] {
            let found = count(line)?;
            ensure!(found == peers, "{found} {what} instead of {peers}");
        }
        wait::until("the daemon to call itself converged", wait::SHORT, || {
            (self.node.status().ok()?["state"] == "converged").then_some(())
        })
    }
}

impl Measure {
    fn extend_from(&mut self, value: Option<f64>) {
        self.samples.extend(value);
    }
}

/// Of `2026-11-21T22:13:20.123456Z`.
fn seconds_of_day(stamp: &str) -> Option<f64> {
    let time = stamp.split_once('T')?.1.strip_suffix('Z')?;
    let mut fields = time.split(':').map(str::parse::<f64>);
    let mut next = || fields.next()?.ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}
