//! Everything between the command line and the first pass of the loop.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::field;

use super::{StartError, datapath, facts, fast, uplink};
use crate::{
    config::{Settings, settings::SourceChoice, uplink::UplinkPolicy},
    kernel::{
        filter::{HostFilter, Own},
        linux::{LinuxKernel, Scope},
        userspace::Userspace,
    },
    model::{Network, Subnet},
    plan::{
        Facts, Rules,
        announce::{Identity, announce},
    },
    serve::{
        Readiness, Report,
        report::{DatapathReport, NodeReport, SourceReport},
    },
    source::{LeaseRequest, LeaseSource, NoLease, OwnLease, etcd::EtcdSource, file::FileSource, kube::KubeSource},
    state::{NodeId, forwarding, refusal, subnet_env::Previous},
};

/// How long a lease may take to be given back on the way out.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// All that the loop starts from.
pub(super) struct Prepared {
    pub(super) identity: Identity,
    pub(super) network: Network,
    /// With what the source told of our addresses.
    pub(super) policy: UplinkPolicy,
    pub(super) source: LeaseSource,
    pub(super) lease: OwnLease,
    pub(super) facts: Facts,
    pub(super) rules: Rules,
    pub(super) kernel: LinuxKernel,
    /// Tells our own changes of the packet filter from others'.
    pub(super) own: Own,
}

/// What is known of the node before anything was asked.
pub(super) fn first_report(settings: &Settings) -> Report {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Report {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        reason: "waiting for the source of leases".into(),
        since_unix: now,
        started_unix: now,
        source: SourceReport {
            kind: match settings.source {
                SourceChoice::Etcd(_) => "etcd",
                SourceChoice::Kube(_) => "kube",
                SourceChoice::File(_) => "file",
            }
            .into(),
            ..SourceReport::default()
        },
        options: Some(settings.chosen.clone()),
        ..Report::default()
    }
}

/// Identity, network config, uplink, addresses, lease: in this order, since each needs the one
/// before. Waits for the source as long as it takes; fails on what waiting cannot cure.
pub(super) async fn prepare(
    settings: &Settings,
    report_tx: &watch::Sender<Arc<Report>>,
    userspace: Userspace,
    readiness: &Readiness,
) -> Result<Prepared, StartError> {
    let node_id = NodeId::load_or_create(&settings.paths.state_dir)?;
    let identity = facts::identity(settings, node_id);
    let previous = Previous::read(&settings.paths.subnet_file)?;
    for problem in &previous.problems {
        tracing::warn!(%problem, path = %settings.paths.subnet_file.display(), "the old subnet file");
    }
    tell(report_tx, |report| {
        report.node = NodeReport { id: identity.node_id.clone(), name: identity.node_name.clone() }
    });

    let mut source = open(settings, report_tx, readiness);
    tell(report_tx, |report| report.reason = "waiting for the network config".into());
    let network = source.network().await;
    let words = source.words().map_err(StartError::Annotation)?;
    let policy = facts::told_policy(&settings.uplink, &words);
    let uplink = uplink::choose(&policy, &network)?;
    tracing::info!(
        interface = uplink.name,
        v4 = uplink.v4.map(field::display),
        v6 = uplink.v6.map(field::display),
        public_v4 = uplink.public_v4.map(field::display),
        public_v6 = uplink.public_v6.map(field::display),
        mtu = uplink.mtu,
        "uplink"
    );
    let vteps = facts::vteps(settings, &network, node_id, words.vteps, true)?;

    tell(report_tx, |report| report.reason = "waiting for a lease".into());
    let request = LeaseRequest {
        network: network.clone(),
        value: announce(&identity, &network, &uplink, vteps),
        previous: Subnet::new(previous.subnet_v4, previous.subnet_v6),
        refused_by: refusal::load(&settings.paths.state_dir)?,
    };
    let lease = acquire(&mut source, request, &settings.paths.state_dir).await?;
    tracing::info!(subnet = %lease.subnet, key = lease.key, "holding a lease");

    let filter = HostFilter::open(facts::filter_choice(settings.filter.flavour));
    let own = filter.own();
    for limit in facts::filter_policy(settings, &network).iter().flat_map(|policy| filter.limits(policy)) {
        tracing::warn!(limit, "the packet filter of this host cannot do all that is asked for");
    }
    let mut kernel = LinuxKernel::new(Scope::default())?.with_filter(Box::new(filter));
    let datapath = datapath::choose(settings, &network);
    tracing::info!(datapath = datapath.kind, why = datapath.why, "who carries the packets");
    let nexthops = kernel.supports_nexthops();
    let mut facts = facts::facts(settings, &network, uplink, vteps, lease.subnet, nexthops);
    facts.options.userspace = datapath.userspace;
    if facts.in_userspace() {
        kernel = kernel.with_userspace(userspace);
    } else {
        kernel = kernel.with_leaving(userspace);
        forwarding::forget(&settings.paths.run_dir)?;
    }
    if let Some(fast) = datapath.fast_path {
        kernel = kernel.with_fast_path(fast);
        facts.options.fast_path = Some(fast::options(settings));
    }
    let rules = facts::rules(&facts, &lease, &identity)?;
    tell(report_tx, |report| {
        report.source.connected = true;
        report.source.detail.clear();
        report.reason = "waiting for the list of leases".into();
        report.datapath = DatapathReport {
            kind: datapath.kind.into(),
            why: datapath.why,
            devices: Facts::devices_of(&network),
            mtu: 0,
        };
    });
    Ok(Prepared { identity, network, policy, source, lease, facts, rules, kernel, own })
}

/// A lease, or the reason why another node has what is ours, remembered for the next start.
async fn acquire(source: &mut LeaseSource, request: LeaseRequest, state_dir: &Path) -> Result<OwnLease, StartError> {
    match source.acquire(request).await {
        Ok(lease) => {
            refusal::forget(state_dir)?;
            Ok(lease)
        }
        Err(NoLease::Contested(contested)) => {
            refusal::store(state_dir, &contested.holding)?;
            Err(contested.into())
        }
        Err(NoLease::Exhausted(exhausted)) => Err(exhausted.into()),
    }
}

fn tell(report_tx: &watch::Sender<Arc<Report>>, change: impl FnOnce(&mut Report)) {
    report_tx.send_modify(|report| change(Arc::make_mut(report)));
}

fn open(settings: &Settings, report_tx: &watch::Sender<Arc<Report>>, readiness: &Readiness) -> LeaseSource {
    let report_tx = report_tx.clone();
    let telling = move |trouble: &str| tell(&report_tx, |report| trouble.clone_into(&mut report.source.detail));
    match &settings.source {
        SourceChoice::Etcd(etcd) => {
            LeaseSource::Etcd(Box::new(EtcdSource::new(etcd.clone(), settings.lease.clone()).telling(telling)))
        }
        SourceChoice::File(path) => {
            let net_config = settings.net_config_path.exists().then(|| settings.net_config_path.clone());
            LeaseSource::File(Box::new(FileSource::new(path.clone(), net_config)))
        }
        SourceChoice::Kube(kube) => {
            let source = KubeSource::new(kube.clone(), settings.net_config_path.clone(), settings.node_name.clone());
            let readiness = readiness.clone();
            let ready = async move { readiness.ready().await };
            LeaseSource::Kube(Box::new(source.telling(telling).available_when(ready)))
        }
    }
}
