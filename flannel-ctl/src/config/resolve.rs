//! PURE: from option texts to [`Settings`], every problem at once.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    EtcdConfig, FlagErrors, LeaseOptions, Problem, Secret, chosen,
    flags::{ETCD, PATHS, RUN, SOURCE},
    read,
    settings::{
        DatapathChoice, FastPathSettings, FilterChoice, FilterSettings, GuardMode, KubeSettings, LogFormat,
        LogSettings, Paths, Settings, SourceChoice,
    },
    uplink::UplinkPolicy,
    values::{Reader, Values, World},
};
use crate::model::TxChecksum;

/// For `run` and what looks at a node as `run` would.
pub fn settings(values: &Values, world: World<'_>) -> Result<Settings, FlagErrors> {
    let mut reader = Reader::new(RUN, values, world);
    let source = source(&mut reader);
    let chosen = chosen::chosen(&reader, &source);
    let settings = Settings {
        source,
        net_config_path: reader.or_default("net-config-path", read::path(world.current_dir)),
        node_name: reader.last("node-name", read::word),
        lease: lease(&mut reader),
        uplink: uplink(&mut reader),
        datapath: datapath(&mut reader),
        fast_path: FastPathSettings {
            enabled: reader.choice("fast-path", &[true, false]),
            validity: Duration::from_secs(reader.or_default("flow-validity", read::number(1..=3600))),
            flows: reader.last("max-flows", read::number(1024..=1 << 26)),
            peers: reader.last("max-peers", read::number(1..=1 << 20)),
            pods: reader.last("max-pods", read::number(1..=1 << 16)),
            pod_rate: reader.or_default("pod-flow-rate", read::number(1..=u32::MAX)),
        },
        tx_checksum: reader.choice("tx-checksum", &[TxChecksum::Auto, TxChecksum::On, TxChecksum::Off]),
        guard: reader.choice("peer-guard", &[GuardMode::Drop, GuardMode::Count, GuardMode::Off]),
        ip_blackhole_route: reader.or_default("ip-blackhole-route", read::switch),
        filter: filter(&mut reader),
        paths: paths_of(&mut reader),
        health: health(&mut reader),
        log: LogSettings {
            format: reader.choice("log-format", &[LogFormat::Human, LogFormat::Json]),
            verbosity: reader.or_default("v", read::number(0..=u32::MAX)),
        },
        as_flanneld: world.as_flanneld,
        chosen,
        warnings: Vec::new(),
    };
    reader.warn_of_ignored();
    let warnings = std::mem::take(&mut reader.warnings);
    finish(reader, Settings { warnings, ..settings })
}

/// For verbs that only talk to the store.
pub fn etcd(values: &Values, world: World<'_>) -> Result<EtcdConfig, FlagErrors> {
    let mut reader = Reader::new(ETCD, values, world);
    let config = etcd_config(&mut reader);
    finish(reader, config)
}

/// For verbs that only ask the source of leases. Beside it, where the network config is if the source keeps none.
pub fn whole_source(values: &Values, world: World<'_>) -> Result<(SourceChoice, PathBuf), FlagErrors> {
    let mut reader = Reader::new(SOURCE, values, world);
    let choice = source(&mut reader);
    let net_config = reader.or_default("net-config-path", read::path(world.current_dir));
    finish(reader, (choice, net_config))
}

/// For verbs that only look at a daemon's files.
pub fn paths(values: &Values, world: World<'_>) -> Result<Paths, FlagErrors> {
    let mut reader = Reader::new(PATHS, values, world);
    let paths = paths_of(&mut reader);
    finish(reader, paths)
}

fn finish<T>(reader: Reader<'_>, value: T) -> Result<T, FlagErrors> {
    if reader.problems.is_empty() { Ok(value) } else { Err(FlagErrors(reader.problems)) }
}

fn source(reader: &mut Reader<'_>) -> SourceChoice {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Etcd,
        Kube,
        File,
    }
    let current_dir = reader.world.current_dir;
    let named = reader.is_given("source").then(|| reader.choice("source", &[Kind::Etcd, Kind::Kube, Kind::File]));
    let kube = reader.or_default("kube-subnet-mgr", read::switch);
    let peers = reader.last("peers-file", read::path(current_dir));
    // Read in any case, so that a bad text is told even if the source is another one.
    let etcd = etcd_config(reader);
    let kube_settings = KubeSettings {
        api_url: reader.last("kube-api-url", read::word),
        kubeconfig: reader.last("kubeconfig-file", read::path(current_dir)),
        annotation_prefix: reader.or_default("kube-annotation-prefix", read::annotation_prefix),
        set_node_network_unavailable: reader.or_default("set-node-network-unavailable", read::switch),
    };

    if kube && named.is_some_and(|named| named != Kind::Kube) {
        reader.problems.push(Problem::new("--kube-subnet-mgr", "true", "contradicts --source; give one of them"));
    }
    if peers.is_some() && (kube || named.is_some_and(|named| named != Kind::File)) {
        let rule = "is for --source=file only";
        reader.problems.push(Problem::new("--peers-file", display(peers.as_deref()), rule));
    }
    match (named, kube, peers) {
        (Some(Kind::Kube), ..) | (None, true, _) => SourceChoice::Kube(kube_settings),
        (Some(Kind::File) | None, _, Some(peers)) => SourceChoice::File(peers),
        (Some(Kind::File), _, None) => {
            reader.problems.push(Problem::missing("--peers-file", "--source=file needs the list of nodes"));
            SourceChoice::File(PathBuf::new())
        }
        (Some(Kind::Etcd) | None, ..) => SourceChoice::Etcd(etcd),
    }
}

fn etcd_config(reader: &mut Reader<'_>) -> EtcdConfig {
    let current_dir = reader.world.current_dir;
    let config = EtcdConfig {
        endpoints: reader.or_default("etcd-endpoints", read::endpoints),
        prefix: reader.or_default("etcd-prefix", read::key_prefix),
        ca_file: reader.last("etcd-cafile", read::path(current_dir)),
        cert_file: reader.last("etcd-certfile", read::path(current_dir)),
        key_file: reader.last("etcd-keyfile", read::path(current_dir)),
        username: reader.last("etcd-username", read::word),
        password: reader.last("etcd-password", |text| Ok(Secret::new(text))),
    };
    let pairs = [
        ("etcd-keyfile", config.key_file.is_some(), "etcd-certfile", config.cert_file.is_some()),
        ("etcd-certfile", config.cert_file.is_some(), "etcd-keyfile", config.key_file.is_some()),
        ("etcd-password", config.password.is_some(), "etcd-username", config.username.is_some()),
        ("etcd-username", config.username.is_some(), "etcd-password", config.password.is_some()),
    ];
    for (missing, present, other, other_present) in pairs {
        if !present && other_present {
            let rule = format!("--{other} needs it");
            reader.problems.push(Problem::missing(format!("--{missing}"), rule));
        }
    }
    let tls = config.ca_file.is_some() || config.cert_file.is_some();
    if tls && config.endpoints.iter().all(|endpoint| endpoint.starts_with("http://")) {
        reader.warnings.push("TLS files are given, but no endpoint is https: the connection is in the clear".into());
    }
    config
}

fn lease(reader: &mut Reader<'_>) -> LeaseOptions {
    // Nothing but a check: see its help.
    reader.last("subnet-lease-renew-margin", read::number(1..=1439));
    LeaseOptions {
        ttl: reader.or_default("lease-ttl", read::lease_ttl),
        release_on_exit: reader.or_default("release-on-exit", read::switch),
    }
}

/// What no restart and no other kernel can change is refused at once.
fn datapath(reader: &mut Reader<'_>) -> DatapathChoice {
    let choice = reader.choice(
        "datapath",
        &[DatapathChoice::Auto, DatapathChoice::Ebpf, DatapathChoice::Vxlan, DatapathChoice::Userspace],
    );
    if choice == DatapathChoice::Ebpf && !reader.world.has_bpf {
        let rule = "this flannel-ctl was built without the BPF programs: build it with FLANNEL_BPF=require, or let \
                    --datapath be auto";
        reader.problems.push(Problem::new("--datapath", "ebpf", rule));
    }
    choice
}

fn uplink(reader: &mut Reader<'_>) -> UplinkPolicy {
    UplinkPolicy {
        ifaces: reader.all("iface", read::word),
        regexes: reader.all("iface-regex", read::regex),
        can_reach: reader.last("iface-can-reach", read::ip),
        public_v4: reader.last("public-ip", read::public_v4),
        public_v6: reader.last("public-ipv6", read::public_v6),
    }
}

fn filter(reader: &mut Reader<'_>) -> FilterSettings {
    let both = reader.or_default("ip-masq", read::switch);
    FilterSettings {
        flavour: reader.choice("packet-filter", &[FilterChoice::Auto, FilterChoice::Nftables, FilterChoice::Iptables]),
        masquerade_v4: reader.last("ip-masq-v4", read::switch).unwrap_or(both),
        masquerade_v6: reader.last("ip-masq-v6", read::switch).unwrap_or(both),
        fully_random: !reader.or_default("ip-masq-fully-random-disable", read::switch),
        exclude: reader.all("ip-masq-exclude", read::ranges).concat(),
        forward_rules: reader.or_default("iptables-forward-rules", read::switch),
        resync: Duration::from_secs(reader.or_default("iptables-resync", read::number(1..=86_400))),
    }
}

fn health(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = reader.or_default("healthz-ip", read::ip);
    let port = reader.or_default("healthz-port", read::number(0..=u16::MAX));
    (port != 0).then_some(SocketAddr::new(ip, port))
}

/// As `flanneld`, run, state and BPF directories follow the directory of `--subnet-file`: two
/// daemons that flannel's users tell apart by that flag alone must not meet in the others.
fn paths_of(reader: &mut Reader<'_>) -> Paths {
    const DEFAULT: &str = "/run/flannel";
    let path = |reader: &mut Reader<'_>, name| reader.last(name, read::path(reader.world.current_dir));
    let subnet_file = path(reader, "subnet-file");
    let followed = subnet_file
        .as_deref()
        .filter(|_| reader.world.as_flanneld)
        .and_then(Path::parent)
        .filter(|dir| *dir != Path::new(DEFAULT))
        .map(Path::to_path_buf);

    let run_dir = path(reader, "run-dir").or_else(|| followed.clone()).unwrap_or_else(|| DEFAULT.into());
    let state_dir = path(reader, "state-dir").or_else(|| followed.clone()).unwrap_or_else(|| "/var/lib/flannel".into());
    let bpf_dir = path(reader, "bpf-dir").unwrap_or_else(|| match followed {
        Some(dir) => format!("/sys/fs/bpf/flannel-{:016x}", fnv1a(dir.as_os_str().as_encoded_bytes())).into(),
        None => "/sys/fs/bpf/flannel".into(),
    });
    Paths { subnet_file: subnet_file.unwrap_or_else(|| run_dir.join("subnet.env")), run_dir, state_dir, bpf_dir }
}

/// FNV-1a, 64 bits: the same name for the same directory in every version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn display(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}
