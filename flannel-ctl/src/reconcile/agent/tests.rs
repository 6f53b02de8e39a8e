use std::collections::BTreeMap;
use std::sync::{
    Mutex,
    mpsc::{Receiver, Sender},
};

use super::*;
use crate::{
    kernel::fake::FakeKernel,
    model::{Backend, Family, Object, Place, PodLink, Setting, State, Uplink, Via, VxlanConfig},
    plan::{
        desire::{FastOptions, Options},
        fixtures::{facts, record, rules, subnet, value},
    },
    reconcile::Surroundings,
    serve::{
        Readiness,
        report::{Condition, FilterReport},
    },
    traffic::Counts,
};

/// A kernel that the test can reach into while the agent runs.
#[derive(Clone, Default)]
struct SharedKernel(Arc<Mutex<FakeKernel>>);

impl Kernel for SharedKernel {
    type Notice = Interpretation;
    fn set_facts(&mut self, facts: &Facts) {
        self.0.lock().unwrap().set_facts(facts);
    }
    fn interpret(&mut self, notice: Interpretation) -> Interpretation {
        notice
    }
    fn observe(&mut self, wanted: &State) -> Result<State, KernelError> {
        self.0.lock().unwrap().observe(wanted)
    }
    fn is_still(&mut self, known: &State, wanted: &State) -> Result<bool, KernelError> {
        self.0.lock().unwrap().is_still(known, wanted)
    }
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        self.0.lock().unwrap().apply(ops)
    }
    fn fast_path_counts(&mut self) -> Option<Result<Counts, KernelError>> {
        self.0.lock().unwrap().fast_path_counts()
    }

    fn filter_report(&mut self, wanted: &State) -> FilterReport {
        self.0.lock().unwrap().filter_report(wanted)
    }
    fn pods(&mut self) -> Result<BTreeMap<u32, PodLink>, KernelError> {
        self.0.lock().unwrap().pods()
    }
    fn fast_path(&mut self) -> Option<Result<State, KernelError>> {
        self.0.lock().unwrap().fast_path()
    }
    fn doubt_flows(&mut self) {
        self.0.lock().unwrap().doubt_flows();
    }
    fn settle_doubts(&mut self) -> Option<Duration> {
        self.0.lock().unwrap().settle_doubts()
    }
    fn takes_zero_checksum(&self) -> bool {
        self.0.lock().unwrap().takes_zero_checksum()
    }
    fn on_link(&mut self, addresses: &[IpAddr]) -> Vec<Result<bool, KernelError>> {
        self.0.lock().unwrap().on_link(addresses)
    }
}

/// A node whose uplink the test decides.
#[derive(Clone)]
struct TestHost {
    uplink: Arc<Mutex<Result<Uplink, String>>>,
    published: Arc<Mutex<Vec<Facts>>>,
    refuse: Arc<Mutex<bool>>,
}

impl Host for TestHost {
    fn uplink(&mut self) -> Result<Uplink, String> {
        self.uplink.lock().unwrap().clone()
    }
    fn surroundings(&mut self, _facts: &Facts) -> Result<Surroundings, String> {
        let rules = rules(false);
        Ok(Surroundings { local_addresses: rules.local_addresses, local_nets: rules.local_nets })
    }
    fn publish(&mut self, facts: &Facts) -> Result<(), String> {
        if *self.refuse.lock().unwrap() {
            return Err("disk full".into());
        }
        self.published.lock().unwrap().push(facts.clone());
        Ok(())
    }
}

struct Running {
    kernel: SharedKernel,
    host: TestHost,
    readiness: Readiness,
    report_rx: watch::Receiver<Arc<Report>>,
    wake_tx: Sender<Wake<Interpretation>>,
    inbox: Inbox<Interpretation>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(kernel: FakeKernel) -> Self {
        Self::with(kernel, facts(false), |_| {})
    }

    fn with(kernel: FakeKernel, facts: Facts, prepare: impl FnOnce(&mut Agent<SharedKernel, TestHost>)) -> Self {
        let kernel = SharedKernel(Arc::new(Mutex::new(kernel)));
        let host = TestHost {
            uplink: Arc::new(Mutex::new(Ok(facts.uplink.clone()))),
            published: Arc::default(),
            refuse: Arc::default(),
        };
        let readiness = Readiness::new();
        let (report_tx, report_rx) = watch::channel(Arc::default());
        let rules = rules(facts.network.v6.is_some());
        let start = Start {
            facts,
            rules,
            lease: OwnLease { key: subnet(1, false).key(), subnet: subnet(1, false), value: value(1, false) },
            report: Report::default(),
            heartbeat: Heartbeat::new(Instant::now()),
            report_tx,
            readiness: readiness.clone(),
            ready: vec![readiness.wait_for("the first pass")],
        };
        let (wake_tx, wake_rx): (_, Receiver<Wake<Interpretation>>) = mpsc::channel();
        let inbox = Inbox::new(64, Interpretation::Resync("notices were lost"));
        let mut agent = Agent::new(kernel.clone(), host.clone(), start);
        prepare(&mut agent);
        let thread = std::thread::spawn(move || agent.run(&wake_rx));
        Self { kernel, host, readiness, report_rx, wake_tx, inbox, thread: Some(thread) }
    }

    fn send(&self, wake: Wake<Interpretation>) {
        self.wake_tx.send(wake).unwrap();
    }

    fn notice(&self, notice: Interpretation) {
        if self.inbox.push(notice) {
            self.send(Wake::Kernel(self.inbox.clone()));
        }
    }

    fn source(&self, event: Event) {
        self.send(Wake::Source(event));
    }

    /// Waits until the condition holds; every change of state is followed by a report.
    fn until(&self, what: &str, mut holds: impl FnMut(&Report, &FakeKernel) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if holds(&self.report_rx.borrow(), &self.kernel.0.lock().unwrap()) {
                return;
            }
            assert!(Instant::now() < limit, "timed out: {what}; {:?}", self.report_rx.borrow());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.wake_tx.send(Wake::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn route(n: u16) -> Key {
    Key::Route(subnet(n, false).net(Family::V4).unwrap())
}

#[test]
fn becomes_ready_only_with_the_list_and_our_own_part_in_place() {
    let running = Running::start(FakeKernel::default());
    running.until("device made", |_, kernel| kernel.state.contains_key(&Key::Device(Family::V4)));
    assert!(!running.readiness.is_ready());
    assert!(running.host.published.lock().unwrap().is_empty(), "rules that guard wait for the peers that they let in");
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("published", |_, _| running.host.published.lock().unwrap().len() == 1);
    running.until("ready", |report, _| running.readiness.is_ready() && report.state == Condition::Converged);
    assert!(running.kernel.0.lock().unwrap().state.contains_key(&route(2)));
}

#[test]
fn a_knob_that_cannot_be_turned_keeps_nobody_from_being_published() {
    // A container with NET_ADMIN alone has /proc/sys read-only.
    let knob = Key::Setting(Family::V4, Setting::AcceptRa);
    let running = Running::start(FakeKernel { refuse: [knob].into(), ..FakeKernel::default() });
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("published", |_, _| running.host.published.lock().unwrap().len() == 1);
    running.until("ready, and not silent about it", |report, _| {
        running.readiness.is_ready() && report.state == Condition::Degraded && report.kernel.failing_total == 1
    });
}

#[test]
fn one_object_that_fails_for_ever_holds_up_nobody_else_and_heals_when_it_can() {
    let kernel = FakeKernel { refuse: [route(2)].into(), ..FakeKernel::default() };
    let running = Running::start(kernel);
    running.source(Event::Snapshot(vec![record(2, false), record(3, false)]));
    running.until("degraded", |report, kernel| {
        report.state == Condition::Degraded && kernel.state.contains_key(&route(3)) && report.peers.programmed == 1
    });
    running.until("tried again", |report, _| report.kernel.failing.first().is_some_and(|failing| failing.tries > 2));
    assert!(running.readiness.is_ready(), "a peer's failure is not ours");
    running.kernel.0.lock().unwrap().refuse.clear();
    running
        .until("healed", |report, kernel| report.state == Condition::Converged && kernel.state.contains_key(&route(2)));
}

#[test]
fn what_somebody_breaks_is_mended_on_notice() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("up", |report, _| report.state == Condition::Converged);
    running.kernel.0.lock().unwrap().state.remove(&route(2));
    running.notice(Interpretation::Changed(route(2), None));
    running.until("route back", |report, kernel| kernel.state.contains_key(&route(2)) && report.counters.repairs == 1);
    running.kernel.0.lock().unwrap().lose_device(Family::V4);
    running.notice(Interpretation::Resync("link gone"));
    let fdb = Key::Fdb(Family::V4, crate::plan::fixtures::mac(2));
    running.until("device and peers back", |_, kernel| {
        kernel.state.contains_key(&Key::Device(Family::V4))
            && kernel.state.contains_key(&route(2))
            && kernel.state.contains_key(&fdb)
    });
}

/// A node with a fast path, and one pod.
fn fast() -> Running {
    let options = FastOptions { enabled: true, validity: Duration::from_secs(3), pod_rate: 100 };
    let facts = Facts { options: Options { fast_path: Some(options), ..facts(false).options }, ..facts(false) };
    let pod = PodLink { name: "veth0".into(), mtu: 1450, spared: None };
    let running = Running::with(FakeKernel { pods: [(7, pod)].into(), ..FakeKernel::default() }, facts, |_| {});
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("up", |report, _| report.state == Condition::Converged);
    running
}

#[test]
fn programs_that_vanish_without_a_notice_come_back_before_any_sweep() {
    let running = fast();
    for key in [Key::Attachment(Place::Pod(7)), Key::FastPath, Key::LiberalConntrack] {
        let lost = running.kernel.0.lock().unwrap().state.remove(&key);
        assert!(lost.is_some(), "{key}");
        // A sweep does not look at them.
        running.until("put back, and not silently", |report, kernel| {
            kernel.state.get(&key) == lost.as_ref() && report.counters.repairs > 0
        });
    }
}

#[test]
fn a_doubt_that_is_put_off_is_asked_after_until_it_is_settled() {
    let running = fast();
    running.kernel.0.lock().unwrap().put_off = true;
    running.send(Wake::OthersRules(Inbox::new(1, ())));
    running.until("asked after", |_, kernel| kernel.doubts == 1 && kernel.settled > 10);
}

#[test]
fn a_changed_uplink_is_followed_and_published() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![]));
    running.until("up", |report, _| report.state == Condition::Converged);
    *running.host.uplink.lock().unwrap() = Ok(Uplink { mtu: 1400, ..facts(false).uplink });
    running.notice(Interpretation::Uplink);
    running.until("mtu follows", |report, kernel| {
        matches!(&kernel.state.get(&Key::Device(Family::V4)), Some(Object::Device(device)) if device.mtu == 1350)
            && report.datapath.mtu == 1350
    });
    running.until("published again", |_, _| {
        running.host.published.lock().unwrap().last().is_some_and(|facts| facts.uplink.mtu == 1400)
    });
    *running.host.uplink.lock().unwrap() = Err("eth0 is gone".into());
    running.notice(Interpretation::Uplink);
    running.until("said so", |report, _| report.reason.contains("eth0 is gone"));
}

#[test]
fn the_lease_says_what_the_device_takes_and_follows_it() {
    let kernel = FakeKernel { zero_checksum: true, ..FakeKernel::default() };
    let running = Running::with(kernel, facts(true), |_| {});
    running.source(Event::Snapshot(vec![]));
    let says = |takes: bool| {
        let published = running.host.published.lock().unwrap();
        published.last().is_some_and(|facts| facts.zero_checksum_v6 == takes)
    };
    running.until("a device of ours takes them", |_, _| says(true));
    // Somebody puts one like flannel's in its place.
    running.kernel.0.lock().unwrap().zero_checksum = false;
    running.notice(Interpretation::Resync("link replaced"));
    running.until("taken back", |_, _| says(false));
}

#[test]
fn a_lost_subnet_is_fenced_until_there_is_another() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("up", |report, _| report.state == Condition::Converged);
    running.source(Event::Lost { subnet: subnet(1, false), reason: "taken".into() });
    running.until("fenced", |report, kernel| kernel.state.is_empty() && report.state == Condition::Degraded);
    assert!(!running.readiness.is_ready(), "whoever asks should send no new pods here");
    let lease = OwnLease { key: subnet(9, false).key(), subnet: subnet(9, false), value: value(1, false) };
    running.source(Event::Own(lease));
    running.until("back on another subnet", |report, kernel| {
        let address = Key::Address(Family::V4, "10.244.9.0/32".parse().unwrap());
        report.state == Condition::Converged
            && kernel.state.contains_key(&address)
            && kernel.state.contains_key(&route(2))
    });
    running.until("published", |_, _| {
        running.host.published.lock().unwrap().last().is_some_and(|facts| facts.subnet == subnet(9, false))
    });
    running.until("ready again", |_, _| running.readiness.is_ready());
}

#[test]
fn a_refused_lease_is_shown_and_forgotten_with_its_cause() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.source(Event::Put(crate::plan::fixtures::with_value("10.244.0.0-16", "{{{{", 5)));
    running.until("shown", |report, _| report.peers.refused == 1 && report.refused[0].key == "10.244.0.0-16");
    running.until("others work", |report, kernel| {
        report.state == Condition::Converged && kernel.state.contains_key(&route(2))
    });
    running.source(Event::Delete("10.244.0.0-16".into()));
    running.until("forgotten", |report, _| report.peers.refused == 0 && report.refused.is_empty());
}

#[test]
fn not_ready_while_it_cannot_publish_and_ready_once_it_can() {
    let running = Running::start(FakeKernel::default());
    *running.host.refuse.lock().unwrap() = true;
    // Whether the first attempt came before or after that line, a new fact makes another.
    running.source(Event::Snapshot(vec![]));
    let lease = OwnLease { key: subnet(9, false).key(), subnet: subnet(9, false), value: value(1, false) };
    running.source(Event::Own(lease));
    running.until("said so", |report, _| report.reason.contains("disk full"));
    *running.host.refuse.lock().unwrap() = false;
    running.until("ready", |report, _| running.readiness.is_ready() && report.state == Condition::Converged);
}

#[test]
fn one_lookup_that_fails_keeps_nobody_else_from_a_direct_route() {
    let mut facts = facts(false);
    facts.network.backend = Backend::Vxlan(VxlanConfig { direct_routing: true, ..VxlanConfig::default() });
    let address = |n: u8| IpAddr::from([10, 200, n, 2]);
    let kernel = FakeKernel {
        on_link: [(address(2), true), (address(3), true)].into(),
        unanswerable: [address(3)].into(),
        ..FakeKernel::default()
    };
    let running = Running::with(kernel, facts, |_| {});
    running.source(Event::Snapshot(vec![record(2, false), record(3, false)]));
    let via = |kernel: &FakeKernel, n| match kernel.state.get(&route(n)) {
        Some(Object::Route(route)) => Some(route.via),
        _ => None,
    };
    let direct = |n| Some(Via::Direct { gateway: address(n) });
    running.until("2 is reached directly, 3 through the overlay", |report, kernel| {
        via(kernel, 2) == direct(2)
            && via(kernel, 3) == Some(Via::Overlay { nexthop: true })
            && report.reason.contains("look up the route to 10.200.3.2")
    });
    let lookups = running.kernel.0.lock().unwrap().lookups;
    running.source(Event::Put(record(4, false)));
    running.until("4 is up", |_, kernel| kernel.state.contains_key(&route(4)));
    assert!(running.kernel.0.lock().unwrap().lookups <= lookups + 4, "not asked again at every pass");
    running.kernel.0.lock().unwrap().unanswerable.clear();
    running.notice(Interpretation::Topology);
    running.until("3 is reached directly too", |report, kernel| {
        via(kernel, 3) == direct(3) && report.state == Condition::Converged
    });
}

#[test]
fn notices_lost_while_the_loop_is_stuck_are_made_up_for() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("up", |report, _| report.state == Condition::Converged);
    {
        // The loop hangs in the kernel, while somebody flushes and ten thousand notices come.
        let mut kernel = running.kernel.0.lock().unwrap();
        running.notice(Interpretation::Resync("something first"));
        for _ in 0..10_000 {
            running.notice(Interpretation::Irrelevant);
        }
        kernel.state.remove(&route(2));
    }
    running.until("mended", |report, kernel| {
        kernel.state.contains_key(&route(2)) && report.state == Condition::Converged && report.counters.notices < 1000
    });
}

#[test]
fn a_listener_that_hears_nothing_shows_until_it_hears_again() {
    let running = Running::start(FakeKernel::default());
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("up", |report, _| report.state == Condition::Converged);
    running.send(Wake::Deaf(Ear::Kernel, Some("EIO".into())));
    running.until("shown", |report, _| {
        report.state == Condition::Degraded
            && report.reason.contains("no notices from the kernel")
            && report.reason.contains("EIO")
    });
    running.kernel.0.lock().unwrap().state.remove(&route(2));
    running.send(Wake::Deaf(Ear::Kernel, None));
    running.until("looked at once, and said", |report, kernel| {
        kernel.state.contains_key(&route(2)) && report.state == Condition::Converged
    });
}

#[test]
fn ipv6_that_fails_for_long_withholds_nothing_from_ipv4() {
    let broken = || FakeKernel { refuse: [Key::Device(Family::V6)].into(), ..FakeKernel::default() };
    let patient = Running::with(broken(), facts(true), |_| {});
    patient.source(Event::Snapshot(vec![record(2, true)]));
    patient.until("v4 is up, v6 fails", |report, kernel| {
        kernel.state.contains_key(&route(2)) && report.kernel.failing_total > 0 && report.counters.passes > 2
    });
    assert!(!patient.readiness.is_ready(), "for a while containers had better wait for both");
    assert!(patient.host.published.lock().unwrap().is_empty());
    patient.kernel.0.lock().unwrap().refuse.clear();
    patient.until("ready with both", |report, _| patient.readiness.is_ready() && report.state == Condition::Converged);

    let hasty = Running::with(broken(), facts(true), |agent| agent.grace = Duration::from_millis(1));
    hasty.source(Event::Snapshot(vec![record(2, true)]));
    hasty.until("ready without v6, and not silent about it", |report, _| {
        hasty.readiness.is_ready() && report.state == Condition::Degraded && report.kernel.failing_total > 0
    });
    let published = hasty.host.published.lock().unwrap();
    assert!(published[0].subnet.v6().is_some(), "containers get both addresses, for when it works again");
}

#[test]
fn containers_are_told_of_nothing_while_our_rules_cannot_be_put() {
    let running = Running::start(FakeKernel { refuse: [Key::Filter].into(), ..FakeKernel::default() });
    running.source(Event::Snapshot(vec![record(2, false)]));
    running.until("tried again and again", |report, kernel| {
        report.kernel.failing.iter().any(|failing| failing.tries > 2) && kernel.state.contains_key(&route(2))
    });
    assert!(!running.readiness.is_ready());
    assert!(running.host.published.lock().unwrap().is_empty());
    running.kernel.0.lock().unwrap().refuse.clear();
    running.until("ready", |_, _| running.readiness.is_ready() && running.host.published.lock().unwrap().len() == 1);
}
