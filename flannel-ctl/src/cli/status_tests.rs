use super::*;
use crate::serve::report::{
    DatapathReport, FilterReport, KernelReport, NetworkReport, NodeReport, OwnLeaseReport, PeerCounts, SourceReport,
    UplinkReport,
};

const NOW: u64 = 1_700_000_000;

fn healthy() -> Report {
    Report {
        version: "0.1.0".into(),
        pid: 4711,
        node: NodeReport { id: "00ff".into(), name: "alpha".into() },
        state: Condition::Converged,
        since_unix: NOW - 65,
        started_unix: NOW - 90_000,
        source: SourceReport {
            kind: "etcd".into(),
            connected: true,
            detail: String::new(),
            last_event_unix: Some(NOW - 5),
        },
        network: Some(NetworkReport {
            ipv4: "10.5.0.0/16".parse().ok(),
            backend: "vxlan".into(),
            vni: Some(1),
            port: Some(8472),
            ..NetworkReport::default()
        }),
        lease: Some(OwnLeaseReport {
            key: "10.5.48.0-24".into(),
            ipv4: "10.5.48.0/24".parse().ok(),
            public_ip: "192.0.2.1".parse().ok(),
            expires_unix: Some(NOW + 7200),
            ..OwnLeaseReport::default()
        }),
        datapath: DatapathReport {
            kind: "vxlan".into(),
            why: "no BPF here".into(),
            devices: vec!["flannel.1".into()],
            mtu: 1450,
        },
        uplink: Some(UplinkReport {
            name: "eth0".into(),
            index: 2,
            mtu: 1500,
            addresses: vec!["192.0.2.1".parse().unwrap()],
        }),
        peers: PeerCounts { total: 2, programmed: 2, refused: 0 },
        kernel: KernelReport { wanted: 9, in_place: 9, ..KernelReport::default() },
        filter: FilterReport { flavour: "nftables".into(), ..FilterReport::default() },
        last_convergence_ms: Some(1.25),
        ..Report::default()
    }
}

fn ailing() -> Report {
    let mut report = healthy();
    report.state = Condition::Degraded;
    report.reason = "1 kernel object fails".into();
    report.source.connected = false;
    report.source.detail = "https://192.0.2.9:2379: connection refused".into();
    report.peers = PeerCounts { total: 2, programmed: 1, refused: 101 };
    report.counters.guard_drops = 3;
    report.filter.read_unix = Some(NOW - 8);
    report.kernel.failing_total = 1;
    report.kernel.failing = vec![FailingObject {
        object: "route 10.5.1.0/24".into(),
        attempt: "add route 10.5.1.0/24".into(),
        error: "Network is unreachable".into(),
        since_secs: 3,
        tries: 2,
        next_try_secs: 1,
    }];
    report.refused =
        vec![RefusedLease { key: "10.5.48.0-20".into(), reason: "overlaps\u{7} ours".into(), since_unix: NOW - 4000 }];
    report
}

#[test]
fn a_healthy_node() {
    insta::assert_snapshot!(render(&healthy(), NOW));
    assert!(is_converged(&healthy()));
}

#[test]
fn an_ailing_node() {
    insta::assert_snapshot!(render(&ailing(), NOW));
    assert!(!is_converged(&ailing()));
}

#[test]
fn a_node_that_has_just_started() {
    let report = Report { awaited: vec!["the network config".into()], ..Report::default() };
    insta::assert_snapshot!(render(&report, 0));
    assert!(!is_converged(&report));
}

#[test]
fn a_stuck_loop_is_not_believed() {
    let report = Report { heartbeat_age_ms: 45_000, ..healthy() };
    assert!(!is_converged(&report));
    let text = render(&report, NOW);
    assert!(text.contains("stuck: the reconcile loop has not come round for 45 s (it was converged)"), "{text}");
}

#[test]
fn field_names_stay() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&ailing()).unwrap());
}

#[test]
fn an_older_daemons_report_is_understood() {
    let report: Report = serde_json::from_str(r#"{"state":"converged","peers":{"total":1},"news":[]}"#).unwrap();
    assert_eq!((report.state, report.peers.total), (Condition::Converged, 1));
}
