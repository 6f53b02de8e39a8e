//! What is not ours stays, and is named when it is in the way.

use super::*;
use crate::kernel::netlink::namespace::bridge;

#[test]
fn a_device_of_our_name_that_is_not_vxlan_is_refused_and_left_alone() {
    isolated(|| {
        let mut lab = lab();
        ip("link add flannel.7 type bridge");
        let wanted = lab.own(&[Family::V4]);
        assert_eq!(lab.kernel.observe(&wanted).unwrap(), State::new());
        let device = wanted.get(&Key::Device(Family::V4)).cloned();
        let error = lab.apply_one(Key::Device(Family::V4), None, device.clone()).unwrap_err();
        assert!(error.answer.contains("flannel.7 exists and is not VXLAN but bridge"), "{error}");
        lab.apply_one(Key::Device(Family::V4), device, None).unwrap();
        assert!(ip("-d link show flannel.7").contains("bridge"));
    });
}

#[test]
fn whoever_has_our_vni_and_port_is_named_in_the_kernels_words() {
    isolated(|| {
        let mut lab = lab();
        ip("link add rival type vxlan id 7 dstport 8472 dev up0");
        let device = Some(Object::Device(Box::new(lab.device(Family::V4))));
        let error = lab.apply_one(Key::Device(Family::V4), None, device).unwrap_err();
        assert_eq!(error.errno, nix::libc::EEXIST);
        let said = "A VXLAN device with the specified VNI already exists: rival has VNI 7 on port 8472";
        assert!(error.answer.contains(said), "{error}");
        assert!(error.attempt.contains("flannel.7"), "{error}");
    });
}

#[test]
fn a_route_or_nexthop_of_another_program_is_not_replaced() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=3);
        lab.converge(&lab.own(&[Family::V4]));
        ip("route add 10.0.1.0/24 via 192.168.0.9 dev up0 proto static");
        ip(&format!("nexthop add id {} via 192.168.0.9 dev up0 protocol 4", 0x0a00_0200));
        let observed = lab.kernel.observe(&wanted).unwrap();
        let ops = diff(&wanted, &observed, true);
        let failed: Vec<_> = ops
            .iter()
            .zip(lab.kernel.apply(&ops))
            .filter_map(|(op, outcome)| outcome.err().map(|error| (op.key, error)))
            .collect();
        let keys: Vec<_> = failed.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [Key::Nexthop([10, 0, 2, 0].into()), Key::Route(v4(1))], "{failed:?}");
        assert!(failed.iter().all(|(_, error)| error.errno == nix::libc::EEXIST && error.hint.is_some()));
        assert!(ip("route show 10.0.1.0/24").contains("proto static"));
        assert!(ip("nexthop show id 167772672").contains("via 192.168.0.9"));
        // Neither held up the third.
        assert!(ip("route show 10.0.3.0/24").contains("proto 102"));
    });
}

#[test]
fn what_the_kernel_learned_on_our_device_is_not_ours() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=2);
        lab.converge(&wanted);
        ip("neigh add 10.0.50.1 lladdr 02:00:00:00:00:50 dev flannel.7 nud reachable");
        bridge("fdb append 00:00:00:00:00:00 dev flannel.7 dst 192.168.0.50");
        ip("addr add 172.16.0.1/24 dev flannel.7");
        ip("route add 10.0.60.0/24 dev flannel.7 proto static");
        assert!(lab.converge(&wanted).is_empty());
        assert!(ip("neigh show dev flannel.7").contains("10.0.50.1"));
        assert!(bridge("fdb show dev flannel.7").contains("192.168.0.50"));
    });
}

#[test]
fn cleanup_removes_ours_and_nothing_else() {
    isolated(|| {
        let mut lab = lab();
        ip("link add vxlan9 type vxlan id 9 dstport 8472 local 192.168.200.1");
        ip("route add 10.0.60.0/24 via 192.168.0.9 dev up0 proto static");
        ip("nexthop add id 77 via 192.168.0.9 dev up0 protocol 4");
        let state =
            || [ip("link show"), ip("route show"), ip("-6 route show table main scope global"), ip("nexthop show")];
        let before = state();
        let mut wanted = mesh(&lab, &Family::ALL, 1..=30);
        peer(&mut wanted, Family::V4, 40, Via::Direct { gateway: public(Family::V4, 40) });
        peer(&mut wanted, Family::V6, 40, Via::Direct { gateway: public(Family::V6, 40) });
        wanted.insert(Key::Route(v4(40000)), Object::Route(Route::ours(Via::Blackhole)));
        wanted.insert(Key::Route(v6(40000)), Object::Route(Route::ours(Via::Blackhole)));
        lab.converge(&wanted);
        lab.kernel.cleanup(&|_| false).unwrap();
        assert_eq!(state(), before);
        lab.kernel.cleanup(&|_| false).unwrap();
    });
}

/// Of whose state nothing can be told.
struct Blind;

impl crate::kernel::PacketFilter for Blind {
    fn observe(&mut self, _wanted: &State, out: &mut State) -> Result<(), super::super::KernelError> {
        out.insert(Key::Filter, Object::Filter(Box::default()));
        Err(super::super::KernelError { attempt: "read rules".into(), answer: "no".into(), hint: None, errno: 1 })
    }
    fn is_still(&mut self, _known: &State, _wanted: &State) -> Result<bool, crate::kernel::KernelError> {
        Ok(false)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), super::super::KernelError>> {
        vec![Ok(()); ops.len()]
    }
    fn report(&mut self, _wanted: &State) -> crate::serve::report::FilterReport {
        crate::serve::report::FilterReport::default()
    }
}

#[test]
fn a_packet_filter_that_cannot_be_read_hides_nothing_else() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=3);
        lab.converge(&wanted);
        lab.kernel = LinuxKernel::new(lab.kernel.scope().clone()).unwrap().with_filter(Box::new(Blind));
        assert_eq!(lab.kernel.observe(&wanted).unwrap(), wanted);
    });
}
