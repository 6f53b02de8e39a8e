//! Hosts whose tools hang, and hosts that have none.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use super::{
    super::{turn::Turn, xtables::Tool},
    lab::{isolated, sh},
    *,
};

fn bare() -> HostFilter {
    HostFilter {
        flavour: Flavour::None,
        why: "there is no nft program; no iptables-save and iptables-restore".into(),
        no_guard: Some("that takes nftables".into()),
        socket: None,
        tools: Tools { all: Vec::new(), default: None, cache: HashMap::new(), turn: Turn::default() },
        cache: None,
        own: Own::default(),
    }
}

#[test]
fn a_host_without_tools_fails_only_where_masquerading_is_asked_for() {
    let (mut filter, peers) = (bare(), [("192.0.2.1", "10.244.2.0/24")]);
    let masquerading = wanted(&guarded(false), &peers);
    let seen = observed(&mut filter, &masquerading);
    assert!(!seen.contains_key(&Key::Filter), "what is asked for by name is missing");
    let ops = crate::plan::diff::diff(&masquerading, &seen, true);
    assert_eq!(ops.len(), 1, "{ops:?}");
    let error = filter.apply(&ops).remove(0).unwrap_err().to_string();
    assert!(error.contains("there is no nft program") && error.contains("--ip-masq"), "{error}");

    let modest = wanted(&FilterPolicy { masquerade: Vec::new(), ..guarded(false) }, &peers);
    assert_eq!(converge(&mut filter, &modest), 0);
    let limits = filter.report(&modest).limits;
    assert_eq!(limits.len(), 2, "and what is not there is said: {limits:?}");
    assert!(limits[0].starts_with("no forwarding rules: there is no nft program"), "{limits:?}");
    assert!(limits[1].starts_with("tunnel packets from strangers are not dropped"), "{limits:?}");
    let mut beside_an_engine = guarded(false);
    beside_an_engine.guard.iter_mut().for_each(|guard| (guard.v4_len, guard.v6_len) = (None, None));
    let limits = filter.limits(&beside_an_engine);
    assert!(limits[1].starts_with("tunnel packets that pods make themselves are not dropped"), "{limits:?}");
    assert_eq!(filter.apply(&[Op { key: Key::Filter, from: None, to: None }]), [Ok(())]);
}

/// A tool of each family, which writes a line to `log` and hangs.
fn hanging(directory: &Path, log: &Path) -> Vec<Tool> {
    fs::create_dir_all(directory).unwrap();
    let tool = |family: Family| {
        let path = directory.join(format!("hangs-{family}"));
        fs::write(&path, format!("#!/bin/sh\necho started >>{}\nexec sleep 3600\n", log.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let name = path.display().to_string();
        Tool { family, variant: Variant::Nft, save: name.clone(), restore: name }
    };
    Family::ALL.into_iter().map(tool).collect()
}

#[test]
fn tools_that_hang_take_one_bound_from_a_pass_and_leave_the_others_alone() {
    isolated(|| {
        let directory = std::env::temp_dir().join(format!("flannel-hanging-{}", std::process::id()));
        let log = directory.join("log");
        let mut filter = HostFilter::open(Choice::Nft);
        let wanted = wanted(&policy(), &[]);
        converge(&mut filter, &wanted);
        sh("for family in ip ip6; do nft add table $family nat; nft add table $family filter; done");
        filter.tools.all = hanging(&directory, &log);
        filter.tools.turn = Turn::new(Duration::from_secs(2), Duration::from_hours(1));
        let started = || fs::read_to_string(&log).unwrap().lines().count();

        filter.begin_pass();
        assert_eq!(observed(&mut filter, &wanted), wanted, "what cannot be read hides nothing");
        sh("nft flush chain inet flannel-ctl postrouting");
        let ops = crate::plan::diff::diff(&wanted, &observed(&mut filter, &wanted), true);
        let error = filter.apply(&ops).remove(0).unwrap_err().to_string();
        assert!(error.contains("run nft") && error.contains("not started"), "{error}");
        assert_eq!(started(), 1, "one hung, and that was all of the pass's time");

        filter.begin_pass();
        filter.tools.forget();
        filter.is_tidy(Some(&policy())).unwrap();
        assert_eq!(started(), 2, "that one rests; another hangs");

        filter.tools.turn.set_patience(Duration::from_mins(1));
        filter.begin_pass();
        let error = filter.apply(&ops).remove(0).unwrap_err().to_string();
        assert!(error.contains("hangs-") && error.contains("no answer within 2 s"), "{error}");
        assert_eq!(started(), 2, "both rest, and nft has all the time that there is");
        assert!(filter.holds(&policy()).unwrap(), "our rules are in force");
        fs::remove_dir_all(&directory).unwrap();
    });
}
