//! Beginning and end.

use std::time::{Duration, Instant};

use flannel_ctl::{
    model::Family,
    userspace::{Engine, EngineError},
};
use xtask::lab::skip_unless;

use super::site::{DEVICE, PATIENCE, echo, nodes, vxlan};

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
    first.engine = Some(first.netns.enter(again).unwrap().unwrap());
    echo(&first, &second, Family::V4, 100);
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
