//! Beginning and end.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use flannel_ctl::{
    model::Family,
    userspace::{Engine, EngineError, Inherited},
};
use xtask::lab::{skip_unless, wait};

use super::site::{DEVICE, PATIENCE, echo, inner, nodes, vxlan};

#[test]
fn a_deleted_device_ends_the_engine_with_its_name() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("usd");
    first.start(&first.options(vxlan(1), Family::V4));
    second.start(&second.options(vxlan(2), Family::V4));
    echo(&first, &second, Family::V4, 100);
    first.netns.ip(&format!("link delete {DEVICE}\n")).unwrap();
    let error = first.ended.take().unwrap().recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&error, EngineError::Deleted { device } if device == DEVICE), "{error}");
    assert!(error.is_transient());
    first.engine.take().unwrap().stop();
    // And once more from the beginning.
    first.start(&first.options(vxlan(1), Family::V4));
    echo(&first, &second, Family::V4, 100);
}

#[test]
fn an_engine_stops_at_once_and_its_successor_goes_on_with_the_same_device() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("ust");
    let options = first.options(vxlan(1), Family::V4);
    first.start(&options);
    second.start(&second.options(vxlan(2), Family::V4));
    echo(&first, &second, Family::V4, 100);
    let start = Instant::now();
    first.engine.take().unwrap().stop();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // Addresses and routes are still there: the device stayed.
    let table = first.table(Family::V4);
    let again = || Engine::start(&options, &table, |error| panic!("{error}"));
    let (here, there) = (first.udp(inner(Family::V4, 1)), second.udp(inner(Family::V4, 2)));
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for round in 0..30 {
        // Without anybody at it the device has no queue, once the kernel has seen to that.
        let is_down = || first.netns.run(&format!("ip link show {DEVICE}")).ok()?.contains("state DOWN").then_some(());
        wait::until("the device to be without carrier", PATIENCE, is_down).unwrap();
        first.engine = Some(first.netns.enter(again).unwrap().unwrap());
        // Nothing is lost from now on.
        here.send_to(&[round], there.local_addr().unwrap()).unwrap();
        let mut got = [0; 1];
        assert_eq!(there.recv(&mut got).unwrap_or_else(|error| panic!("round {round}: {error}")), 1);
        assert_eq!(got, [round]);
        first.engine.take().unwrap().stop();
    }
    first.engine = Some(first.netns.enter(again).unwrap().unwrap());
    echo(&first, &second, Family::V4, 100);
}

/// As a service manager keeps them: what comes meanwhile waits.
#[test]
fn what_is_handed_on_goes_on_where_it_was_and_what_does_not_fit_is_out_of_the_way() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [mut first, mut second] = nodes("ush");
    let options = first.options(vxlan(1), Family::V4);
    first.start(&options);
    second.start(&second.options(vxlan(2), Family::V4));
    let (here, there) = (first.udp(inner(Family::V4, 1)), second.udp(inner(Family::V4, 2)));
    let (at, to) = (here.local_addr().unwrap(), there.local_addr().unwrap());
    there.send_to(b"before", at).unwrap();
    assert_eq!(here.recv(&mut [0; 9]).unwrap(), 6);
    let table = first.table(Family::V4);
    let keep = |descriptors: Vec<BorrowedFd<'_>>| {
        descriptors.iter().map(|descriptor| descriptor.try_clone_to_owned().unwrap()).collect::<Vec<_>>()
    };
    let engine = first.engine.take().unwrap();
    let [kept, unfit] = [0, 1].map(|_| Inherited { queues: keep(engine.queues()), sockets: keep(engine.sockets()) });
    engine.stop();

    there.send_to(b"while", at).unwrap();
    here.send_to(b"whilst", to).unwrap();
    let start = |inherited| {
        let start = || Engine::start_with(&options, &table, inherited, |error| panic!("{error}"));
        first.netns.enter(start).unwrap().unwrap()
    };
    let engine = start(kept);
    assert!(engine.has_adopted());
    assert_eq!(here.recv(&mut [0; 9]).unwrap(), 5);
    assert_eq!(there.recv(&mut [0; 9]).unwrap(), 6);
    let mut held = Inherited { queues: keep(engine.queues()), sockets: keep(engine.sockets()) };
    engine.stop();

    // One is missing: none is taken, and none of those that are still open elsewhere gets what is for the new ones.
    let Inherited { queues, mut sockets } = unfit;
    sockets.pop();
    let engine = start(Inherited { queues, sockets });
    assert!(!engine.has_adopted());
    held.sockets.pop();
    first.engine = Some(engine);
    for _ in 0..20 {
        echo(&first, &second, Family::V4, 100);
    }
    drop(held);
}

#[test]
fn what_cannot_be_started_says_why() {
    if skip_unless(&["ip"]) {
        return;
    }
    let [first, _second] = nodes("usw");
    let start = |device: &str, local: &str| {
        let mut options = first.options(vxlan(1), Family::V4);
        options.device = device.into();
        options.local = local.parse().unwrap();
        let table = first.table(Family::V4);
        first.netns.enter(|| Engine::start(&options, &table, drop).map(drop)).unwrap().unwrap_err().to_string()
    };
    let absent = start(DEVICE, "192.0.2.77");
    assert!(
        absent.contains("bind") && absent.contains("192.0.2.77") && absent.contains("not on this host"),
        "{absent}"
    );
    let other = start("wire0", "192.0.2.1");
    assert!(other.contains("wire0") && other.contains("another kind"), "{other}");
}
