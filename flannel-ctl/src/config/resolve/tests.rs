use std::collections::BTreeMap;

use super::*;

/// Flags and variables, the latter by their full names.
#[derive(Default)]
struct Case {
    values: Values,
    variables: BTreeMap<String, String>,
    as_flanneld: bool,
    without_bpf: bool,
}

impl Case {
    fn flags(given: &[(&'static str, &str)]) -> Self {
        let mut case = Self::default();
        for (name, text) in given {
            case.values.insert(name, text.split('|').map(str::to_owned).collect());
        }
        case
    }

    fn variables(mut self, given: &[(&str, &str)]) -> Self {
        self.variables = given.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        self
    }

    fn called_as_flanneld(mut self) -> Self {
        self.as_flanneld = true;
        self
    }

    fn settings(&self) -> Result<Settings, FlagErrors> {
        let variable = |name: &str| self.variables.get(name).cloned();
        let world = World {
            variable: &variable,
            current_dir: Path::new("/root"),
            as_flanneld: self.as_flanneld,
            has_bpf: !self.without_bpf,
        };
        settings(&self.values, world)
    }

    fn good(&self) -> Settings {
        self.settings().unwrap()
    }

    fn bad(&self) -> Vec<String> {
        let FlagErrors(problems) = self.settings().expect_err("refused");
        problems.iter().map(ToString::to_string).collect()
    }
}

fn paths_are(paths: &Paths, run_dir: &str, subnet_file: &str, state_dir: &str, bpf_dir: &str) {
    let wanted = Paths {
        run_dir: run_dir.into(),
        subnet_file: subnet_file.into(),
        state_dir: state_dir.into(),
        bpf_dir: bpf_dir.into(),
    };
    assert_eq!(*paths, wanted);
}

#[test]
fn a_build_without_the_bpf_programs_refuses_them_by_name_and_nothing_else() {
    let case = |datapath| Case { without_bpf: true, ..Case::flags(&[("datapath", datapath)]) };
    let problems = case("ebpf").bad();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("--datapath") && problems[0].contains("FLANNEL_BPF=require"), "{problems:?}");
    for (text, choice) in [("auto", DatapathChoice::Auto), ("vxlan", DatapathChoice::Vxlan)] {
        assert_eq!(case(text).good().datapath, choice);
    }
    assert_eq!(Case::flags(&[("datapath", "ebpf")]).good().datapath, DatapathChoice::Ebpf);
}

#[test]
fn every_default_of_the_table_is_valid() {
    let settings = Case::default().good();
    assert!(settings.warnings.is_empty());
    assert_eq!(settings.datapath, DatapathChoice::Auto);
    assert_eq!(settings.guard, GuardMode::Drop);
    assert_eq!(settings.health, None);
    assert!(settings.filter.fully_random && settings.filter.forward_rules && !settings.filter.ip_masq());
    let SourceChoice::Etcd(etcd) = &settings.source else { panic!("{:?}", settings.source) };
    assert_eq!(etcd.endpoints, ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]);
    assert_eq!(etcd.prefix, "/coreos.com/network");
    assert_eq!(settings.lease, LeaseOptions::default());
}

#[test]
fn every_choice_of_the_table_has_a_meaning() {
    for flag in RUN.iter().flat_map(|group| group.flags) {
        for choice in flag.choices {
            let mut case = Case::flags(&[(flag.name, choice)]);
            if (flag.name, *choice) == ("source", "file") {
                case.values.insert("peers-file", vec!["/p".into()]);
            }
            case.good();
        }
    }
}

#[test]
fn a_flag_beats_its_variable_even_with_nothing() {
    let variables = [("FLANNELD_ETCD_PREFIX", "/env"), ("FLANNELD_IFACE", "eth1,eth2"), ("FLANNELD_ETCD_CAFILE", "ca")];
    let settings = Case::flags(&[("etcd-prefix", "/flag"), ("etcd-cafile", "")]).variables(&variables).good();
    let SourceChoice::Etcd(etcd) = settings.source else { panic!() };
    assert_eq!((etcd.prefix.as_str(), etcd.ca_file), ("/flag", None));
    assert_eq!(settings.uplink.ifaces, ["eth1,eth2"], "one element, not split");
}

#[test]
fn empty_variables_count_as_unset() {
    let settings = Case::default().variables(&[("FLANNELD_IP_MASQ", ""), ("FLANNELD_HEALTHZ_PORT", "")]).good();
    assert!(!settings.filter.ip_masq() && settings.health.is_none());
}

#[test]
fn a_bad_variable_is_an_error_for_run_and_a_warning_for_flanneld() {
    let case = Case::default().variables(&[("FLANNELD_IPTABLES_RESYNC", "often"), ("FLANNELD_IP_MASQ", "yes")]);
    assert_eq!(case.bad().len(), 2);
    let settings = case.called_as_flanneld().good();
    assert_eq!((settings.filter.resync, settings.filter.ip_masq()), (Duration::from_secs(5), false));
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
}

#[test]
fn switches_read_as_go_reads_them() {
    for (text, wanted) in [("true", true), ("1", true), ("T", true), ("false", false), ("0", false), ("F", false)] {
        assert_eq!(Case::flags(&[("ip-masq", text)]).good().filter.ip_masq(), wanted, "{text}");
    }
    assert_eq!(Case::flags(&[("ip-masq", "")]).bad().len(), 1);
    assert_eq!(Case::flags(&[("ip-masq", "yes")]).bad().len(), 1);
}

#[test]
fn families_are_masqueraded_separately() {
    let filter = Case::flags(&[("ip-masq", "true"), ("ip-masq-v6", "false")]).good().filter;
    assert_eq!((filter.masquerade_v4, filter.masquerade_v6), (true, false));
    let filter = Case::flags(&[("ip-masq-v6", "true")]).good().filter;
    assert_eq!((filter.masquerade_v4, filter.masquerade_v6, filter.ip_masq()), (false, true, true));
}

#[test]
fn directories_of_run_have_their_own_defaults() {
    let paths = |flags| Case::flags(flags).good().paths;
    let (state, bpf) = ("/var/lib/flannel", "/sys/fs/bpf/flannel");
    paths_are(&paths(&[]), "/run/flannel", "/run/flannel/subnet.env", state, bpf);
    paths_are(&paths(&[("run-dir", "/run/a")]), "/run/a", "/run/a/subnet.env", state, bpf);
    paths_are(&paths(&[("subnet-file", "b//./s.env")]), "/run/flannel", "/root/b/s.env", state, bpf);
}

#[test]
fn as_flanneld_directories_follow_the_subnet_file() {
    let paths = |flags| Case::flags(flags).called_as_flanneld().good().paths;
    let (state, bpf) = ("/var/lib/flannel", "/sys/fs/bpf/flannel");
    let default = paths(&[("subnet-file", "/run/flannel/subnet.env")]);
    paths_are(&default, "/run/flannel", "/run/flannel/subnet.env", state, bpf);
    let a = paths(&[("subnet-file", "/tmp/a/subnet.env")]);
    let b = paths(&[("subnet-file", "/tmp/b/subnet.env")]);
    paths_are(&a, "/tmp/a", "/tmp/a/subnet.env", "/tmp/a", "/sys/fs/bpf/flannel-6cc13bddf2746ce7");
    assert!(a.bpf_dir != b.bpf_dir && a.state_dir != b.state_dir && a.run_dir != b.run_dir);
    let own = paths(&[("subnet-file", "/tmp/a/subnet.env"), ("state-dir", "/srv"), ("bpf-dir", "/sys/fs/bpf/x")]);
    paths_are(&own, "/tmp/a", "/tmp/a/subnet.env", "/srv", "/sys/fs/bpf/x");
}

#[test]
fn sources_exclude_each_other() {
    assert!(matches!(Case::flags(&[("kube-subnet-mgr", "true")]).good().source, SourceChoice::Kube(_)));
    assert!(matches!(
        Case::flags(&[("source", "kube"), ("kube-subnet-mgr", "true")]).good().source,
        SourceChoice::Kube(_)
    ));
    assert_eq!(Case::flags(&[("peers-file", "p.yaml")]).good().source, SourceChoice::File("/root/p.yaml".into()));
    assert_eq!(Case::flags(&[("source", "file")]).bad().len(), 1);
    assert_eq!(Case::flags(&[("source", "etcd"), ("kube-subnet-mgr", "true")]).bad().len(), 1);
    assert_eq!(Case::flags(&[("source", "etcd"), ("peers-file", "p.yaml")]).bad().len(), 1);
}

#[test]
fn a_ca_alone_is_enough_and_half_a_pair_is_not() {
    Case::flags(&[("etcd-endpoints", "https://a:1"), ("etcd-cafile", "ca")]).good();
    for flag in ["etcd-certfile", "etcd-keyfile", "etcd-username", "etcd-password"] {
        let problems = Case::flags(&[(flag, "x")]).bad();
        assert!(problems.len() == 1 && problems[0].contains(&format!("--{flag} needs it")), "{problems:?}");
    }
    assert_eq!(Case::flags(&[("etcd-cafile", "ca")]).good().warnings.len(), 1);
}

#[test]
fn flannels_idle_options_are_checked_and_warned_of() {
    let settings = Case::flags(&[("vmodule", "a=1"), ("subnet-lease-renew-margin", "30")]).good();
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    for margin in ["0", "1440", "-5", "x"] {
        assert_eq!(Case::flags(&[("subnet-lease-renew-margin", margin)]).bad().len(), 1, "{margin}");
    }
}

#[test]
fn variables_of_removed_options_are_warned_of() {
    let settings =
        Case::default().variables(&[("FLANNELD_ETCD_ENDPOINT", "http://a:1"), ("FLANNELD_LISTEN", "")]).good();
    assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
    assert!(settings.warnings[0].contains("use --etcd-endpoints"), "{:?}", settings.warnings);
}

#[test]
fn secrets_are_never_printed() {
    let case = Case::flags(&[("etcd-username", "root"), ("etcd-password", "geheim")]);
    assert!(!format!("{:?} {:?}", case.values, case.good()).contains("geheim"));
    let problems = Case::flags(&[("etcd-endpoints", "http://a:1,http://root:geheim@b:1")]).bad();
    assert!(problems.len() == 1 && !problems[0].contains("geheim"), "{problems:?}");
}

#[test]
fn every_problem_is_told_at_once() {
    let case = Case::flags(&[
        ("datapath", "warp"),
        ("etcd-endpoints", "10.0.0.1:2379"),
        ("etcd-certfile", "cert.pem"),
        ("iface-regex", "eth[|("),
        ("public-ip", "fd00::1"),
        ("ip-masq-exclude", "10.0.0.0/33"),
        ("iptables-resync", "0"),
        ("lease-ttl", "1s"),
        ("healthz-port", "65536"),
        ("subnet-lease-renew-margin", "1440"),
    ])
    .variables(&[("FLANNELD_IFACE_CAN_REACH", "gateway")]);
    insta::assert_snapshot!(case.settings().unwrap_err());
}
