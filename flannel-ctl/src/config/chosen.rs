//! PURE: the options that decide what a node gets, as they were given, and how two sets of them differ.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    flags::{self, Flag, Origin},
    settings::SourceChoice,
    values::Reader,
};

/// Texts by the option's name; what is as the table's default is left out, and so are secrets.
pub type Chosen = BTreeMap<String, Vec<String>>;

/// They say where things are or how they are told, or how a lease is kept, not what a node gets.
const BESIDE: &[&str] = &[
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "etcd-username",
    "etcd-password",
    "lease-ttl",
    "release-on-exit",
    "kubeconfig-file",
    "run-dir",
    "healthz-ip",
    "healthz-port",
    "log-format",
    "v",
];

pub(super) fn chosen(reader: &Reader<'_>, source: &SourceChoice) -> Chosen {
    let options = flags::RUN.iter().flat_map(|group| group.flags).filter(|flag| !is_of_another_source(flag, source));
    let deciding = options.filter(|flag| flag.origin != Origin::FlannelIgnored && !BESIDE.contains(&flag.name));
    let given = deciding.map(|flag| (flag, reader.texts(flag)));
    let others = given.filter(|(flag, texts)| !texts.is_empty() && !is_default(flag, texts));
    others.map(|(flag, texts)| (flag.name.to_owned(), texts)).collect()
}

fn is_of_another_source(flag: &Flag, source: &SourceChoice) -> bool {
    let (etcd, kube) = (flag.name.starts_with("etcd-"), flag.name.starts_with("kube-"));
    etcd && !matches!(source, SourceChoice::Etcd(_)) || kube && !matches!(source, SourceChoice::Kube(_))
}

fn is_default(flag: &Flag, texts: &[String]) -> bool {
    texts.last().is_some_and(|last| last == flag.default)
}

/// Each option that is not the same: how it is there, and how here.
pub fn differences(there: &Chosen, here: &Chosen) -> Vec<String> {
    let names: BTreeSet<_> = there.keys().chain(here.keys()).collect();
    let differing = names.into_iter().filter(|name| there.get(*name) != here.get(*name));
    let shown = |name: &String, texts: Option<&Vec<String>>| match texts {
        Some(texts) => texts.join(" "),
        None => match flags::find(name).map(|flag| flag.default) {
            Some("") | None => "not given".to_owned(),
            Some(default) => default.to_owned(),
        },
    };
    differing
        .map(|name| format!("--{name} {}, here {}", shown(name, there.get(name)), shown(name, here.get(name))))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{
        resolve,
        values::{Values, World},
    };

    fn chosen(given: &[(&'static str, &[&str])], environment: &[(&str, &str)]) -> Chosen {
        let mut values = Values::default();
        for (name, texts) in given {
            values.insert(name, texts.iter().map(|&text| text.to_owned()).collect());
        }
        let variable =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let world = World { variable: &variable, current_dir: Path::new("/"), as_flanneld: false, has_bpf: true };
        resolve::settings(&values, world).unwrap().chosen
    }

    #[test]
    fn the_same_options_by_other_ways_do_not_differ() {
        let by_flag = chosen(&[("peer-guard", &["off"]), ("datapath", &["auto"]), ("v", &["4"])], &[]);
        let by_variable = chosen(&[("run-dir", &["/x"])], &[("FLANNELD_PEER_GUARD", "off")]);
        assert_eq!(differences(&by_flag, &by_variable), Vec::<String>::new());
    }

    #[test]
    fn options_of_a_source_that_is_not_asked_decide_nothing() {
        let beside = ("etcd-endpoints", &["http://10.0.0.1:2379"][..]);
        let [kube, file] = [("source", &["kube"][..]), ("source", &["file"])];
        assert_eq!(chosen(&[kube, beside], &[]), chosen(&[kube], &[]));
        let url = ("kube-api-url", &["https://10.0.0.1"][..]);
        let peers = ("peers-file", &["/peers"][..]);
        assert_eq!(chosen(&[file, peers, beside, url], &[]), chosen(&[file, peers], &[]));
        assert_ne!(chosen(&[kube, url], &[]), chosen(&[kube], &[]));
        assert_ne!(chosen(&[beside], &[]), chosen(&[], &[]));
    }

    #[test]
    fn each_option_that_differs_is_told_with_both_values() {
        let there = chosen(&[("iface", &["eth0", "eth1"]), ("ip-masq", &["true"])], &[]);
        let here = chosen(&[("datapath", &["vxlan"]), ("ip-masq", &["true"])], &[]);
        let told = ["--datapath auto, here vxlan", "--iface eth0 eth1, here not given"];
        assert_eq!(differences(&there, &here), told);
    }

    #[test]
    fn no_secret_is_among_them() {
        let secrets = [("etcd-username", &["me"][..]), ("etcd-password", &["hush"])];
        assert_eq!(chosen(&secrets, &[]), Chosen::new());
    }
}
