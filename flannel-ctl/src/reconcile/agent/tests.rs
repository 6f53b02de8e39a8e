//! The loop on a kernel in memory, and on the real one where the kernel's silence matters.

mod life;
mod silence;
mod troubles;

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
        facts::{FastOptions, Options},
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
    const PARTS: usize = FakeKernel::PARTS;
    const SILENT: usize = FakeKernel::SILENT;
    fn set_facts(&mut self, facts: &Facts) {
        self.0.lock().unwrap().set_facts(facts);
    }
    fn interpret(&mut self, notice: Interpretation) -> Interpretation {
        notice
    }
    fn observe(&mut self, wanted: &State) -> Result<State, KernelError> {
        self.0.lock().unwrap().observe(wanted)
    }
    fn is_still(&mut self, part: usize, known: &State, wanted: &State) -> Result<bool, KernelError> {
        self.0.lock().unwrap().is_still(part, known, wanted)
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
    fn renew_fast_path(&mut self) {
        self.0.lock().unwrap().renew_fast_path();
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

impl TestHost {
    fn new(facts: &Facts) -> Self {
        let uplink = Arc::new(Mutex::new(Ok(facts.uplink.clone())));
        Self { uplink, published: Arc::default(), refuse: Arc::default() }
    }
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

/// Node 1 of [`crate::plan::fixtures`].
fn start(facts: Facts, readiness: &Readiness) -> (Start, watch::Receiver<Arc<Report>>) {
    let (report_tx, report_rx) = watch::channel(Arc::default());
    let start = Start {
        rules: rules(facts.network.v6.is_some()),
        facts,
        lease: OwnLease { key: subnet(1, false).key(), subnet: subnet(1, false), value: value(1, false) },
        report: Report::default(),
        heartbeat: Heartbeat::new(Instant::now()),
        report_tx,
        readiness: readiness.clone(),
        ready: vec![readiness.wait_for("the first pass")],
    };
    (start, report_rx)
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
        let host = TestHost::new(&facts);
        let readiness = Readiness::new();
        let (start, report_rx) = start(facts, &readiness);
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
