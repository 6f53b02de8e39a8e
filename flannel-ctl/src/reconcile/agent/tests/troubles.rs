//! What fails, breaks or goes unheard.

use super::*;

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
fn a_daemon_that_has_nothing_to_do_lets_the_fast_path_go_on() {
    let running = fast();
    running.until("told twice to go on", |_, kernel| kernel.renewed > 1);
}
