//! From the start to ready, and what the node is told and tells of itself.

use super::*;

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
