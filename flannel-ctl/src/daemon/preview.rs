//! What `run` would do here, found out without doing any of it: no lock, no lease, no file, no
//! change of the kernel.

mod learn;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use self::learn::{Leases, learn, listed};
use super::{
    StartError,
    datapath::{self, Outlook},
    facts, node, uplink, vtep,
};
use crate::{
    alloc::{self, Claim, Take},
    config::{ConfigErrors, Settings},
    kernel::{
        Kernel,
        filter::HostFilter,
        linux::{LinuxKernel, Scope},
    },
    model::{Backend, Key, LeaseRecord, LeaseValue, Network, Object, Op, Subnet, Via},
    plan::{
        Facts,
        announce::{Identity, announce},
    },
    reconcile::World,
    source::{
        LeaseRequest, OwnLease,
        etcd::{EtcdError, NoEndpoint},
        kube::{Survey, SurveyError, Words},
    },
    state::{NodeId, subnet_env::Previous},
};

/// How long the source of leases may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that would change.
#[derive(Debug, Default)]
pub struct Preview {
    /// Outside of the kernel, in the order in which it would happen.
    pub steps: Vec<Step>,
    pub ops: Vec<Op>,
    /// Leases that are not believed, and why.
    pub refused: BTreeMap<String, String>,
    /// What the reader should know of how good this preview is.
    pub notes: Vec<String>,
}

/// One change outside of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub change: Change,
    pub object: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Add,
    Change,
    Remove,
}

#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    NoEtcd(#[from] NoEndpoint),
    #[error("{0}")]
    Etcd(#[from] EtcdError),
    #[error("{from} did not answer within {} s", PATIENCE.as_secs())]
    Silent { from: String },
    #[error(transparent)]
    Kube(#[from] SurveyError),
    #[error("there is no network config at {key}; publish one with `flannel-ctl config publish`")]
    NoNetwork { key: String },
    #[error("{key}: {problems}")]
    BadNetwork { key: String, problems: ConfigErrors },
}

impl PreviewError {
    /// `run` would end with exit code 2.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Start(error) if error.is_config())
    }
}

/// Looks at everything that `run` would look at.
pub fn preview(settings: &Settings) -> Result<Preview, PreviewError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let outcome = runtime.block_on(look(settings));
    runtime.shutdown_background();
    outcome
}

async fn look(settings: &Settings) -> Result<Preview, PreviewError> {
    let mut preview = Preview::default();
    let node_id = NodeId::load(&settings.paths.state_dir).map_err(StartError::from)?;
    let identity = if let Some(id) = node_id {
        facts::identity(settings, id)
    } else {
        let path = settings.paths.state_dir.join(NodeId::NAME);
        preview.add("node identity", format!("make the node identity {}", path.display()));
        preview.notes.push("the MAC of a new VXLAN device is made from the node identity, so it will differ".into());
        Identity { node_id: String::new(), ..facts::identity(settings, NodeId::from_bytes([0; 16])) }
    };
    let previous = Previous::read(&settings.paths.subnet_file).map_err(StartError::from)?;

    let (network, leases) = learn(settings).await?;
    let words = if let Leases::Kube(survey) = &leases { survey.words } else { Words::default() };
    let uplink = uplink::choose(&facts::told_policy(&settings.uplink, &words), &network)?;
    let stand_in = node_id.unwrap_or(NodeId::from_bytes([0; 16]));
    let vteps = facts::vteps(settings, &network, stand_in, words.vteps, false)?;
    preview.vtep_macs(&settings.paths.state_dir, &network);
    let value = announce(&identity, &network, &uplink, vteps);
    let previous = Subnet::new(previous.subnet_v4, previous.subnet_v6);
    let (lease, records) = match leases {
        Leases::Listed(records) => (preview.choose(&network, value, previous, &records)?, records),
        Leases::Kube(survey) => preview.annotate(&survey, value).await?,
        Leases::File(source) => {
            listed(*source, LeaseRequest { network: network.clone(), value, previous, refused_by: None }).await?
        }
    };

    let filter = HostFilter::open(facts::filter_choice(settings.filter.flavour));
    let mut kernel = LinuxKernel::new(Scope::default()).map_err(StartError::from)?.with_filter(Box::new(filter));
    let mut facts = facts::facts(settings, &network, uplink, vteps, lease.subnet, kernel.supports_nexthops());
    facts.options.userspace = datapath::in_userspace(settings, &network);
    let rules = facts::rules(&facts, &lease, &identity)?;
    preview.subnet_file(&settings.paths.subnet_file, &facts, settings.filter.ip_masq());
    preview.fast_path(settings, &network);
    preview.kernel(&mut kernel, World::new(facts, rules), records)?;
    Ok(preview)
}

impl Preview {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.ops.is_empty()
    }

    fn add(&mut self, object: impl Into<String>, text: String) {
        self.step(Change::Add, object, text);
    }

    fn step(&mut self, change: Change, object: impl Into<String>, text: String) {
        self.steps.push(Step { change, object: object.into(), text });
    }

    /// The lease that `run` would hold.
    fn choose(
        &mut self,
        network: &Network,
        value: LeaseValue,
        previous: Option<Subnet>,
        records: &[LeaseRecord],
    ) -> Result<OwnLease, StartError> {
        let claim = Claim { network, value: &value, previous, random: 0, silent: &[] };
        let decision = alloc::choose(&claim, records)?;
        let subnet = match &decision.take {
            Take::Keep(subnet, record) => {
                if let Some(text) = rewrite(&value, record) {
                    self.step(Change::Change, format!("lease {}", record.key), text);
                }
                *subnet
            }
            Take::Create(subnet) => {
                let key = subnet.key();
                if Some(*subnet) == previous {
                    self.add(format!("lease {key}"), format!("lease {subnet} again, the subnet of the subnet file"));
                } else {
                    self.add("lease", "lease a free subnet".into());
                    self.notes.push(format!(
                        "a subnet is leased first, drawn by lot among the free ones; {subnet} stands for it here"
                    ));
                }
                *subnet
            }
        };
        for record in &decision.release {
            let text = format!("release lease {}, which is ours and of no use", record.key);
            self.step(Change::Remove, format!("lease {}", record.key), text);
        }
        if !decision.ask.is_empty() {
            let keys: Vec<_> = decision.ask.iter().map(|record| record.key.as_str()).collect();
            self.notes.push(format!(
                "another node may live with our id or address and hold {}: it is asked first, and if it answers, this one does not start",
                keys.join(", ")
            ));
        }
        if !decision.rivals.is_empty() {
            self.notes.push(format!("another node holds a lease with our address: {}", decision.rivals.join(", ")));
        }
        Ok(OwnLease { key: subnet.key(), subnet, value })
    }

    /// What `run` would write on our node, and everybody's leases.
    async fn annotate(
        &mut self,
        survey: &Survey,
        value: LeaseValue,
    ) -> Result<(OwnLease, Vec<LeaseRecord>), PreviewError> {
        let (lease, wrong) = survey.lease(&value)?;
        for (name, text) in wrong {
            let object = format!("annotation {name} of node {}", survey.name);
            let text = format!("say {text} in {object}");
            self.step(Change::Change, object, text);
        }
        Ok((lease, survey.records().await.map_err(SurveyError::from)?))
    }

    /// Where the addresses of VXLAN devices are remembered.
    fn vtep_macs(&mut self, state_dir: &Path, network: &Network) {
        let Backend::Vxlan(vxlan) = &network.backend else { return };
        for path in network.families().map(|family| vtep::path(state_dir, vxlan.vni, family)) {
            let object = format!("VTEP address file {}", path.display());
            match vtep::remembered(&path) {
                Ok(Some(_)) => {}
                Ok(None) if path.exists() => self.step(Change::Change, object.clone(), format!("rewrite {object}")),
                // Not readable: making the device address out has failed before.
                Ok(None) | Err(_) => self.add(object.clone(), format!("write {object}")),
            }
        }
    }

    fn subnet_file(&mut self, path: &Path, facts: &Facts, ip_masq: bool) {
        let object = format!("subnet file {}", path.display());
        match fs::read_to_string(path) {
            Ok(text) if text == node::subnet_env(facts, ip_masq).render() => {}
            Ok(_) => self.step(Change::Change, object.clone(), format!("rewrite {object}")),
            Err(_) => self.add(object.clone(), format!("write {object}")),
        }
    }

    fn fast_path(&mut self, settings: &Settings, network: &Network) {
        let directory = settings.paths.bpf_dir.display();
        match datapath::outlook(settings, network) {
            Ok(Outlook::Attach) => self.add(
                "fast path",
                format!(
                    "attach the BPF programs to the uplink, the VXLAN devices and the pods' interfaces, pinned below \
                     {directory}; set nf_conntrack_tcp_be_liberal"
                ),
            ),
            Ok(Outlook::Retire(pins, why)) => self.step(
                Change::Remove,
                "fast path",
                format!("detach the BPF programs of an earlier run, {pins} pins below {directory} ({why})"),
            ),
            Ok(Outlook::Nothing(why)) => self.notes.extend(why),
            Err(error) => self.notes.push(format!("what the fast path would do is not known: {error}")),
        }
    }

    fn kernel(
        &mut self,
        kernel: &mut LinuxKernel,
        mut world: World,
        records: Vec<LeaseRecord>,
    ) -> Result<(), StartError> {
        world.snapshot(records);
        kernel.set_facts(world.facts());
        let asked = world.unknown_on_link();
        if !asked.is_empty() {
            let answers = asked.iter().copied().zip(kernel.on_link(&asked));
            let answers: Result<_, _> = answers.map(|(ip, answer)| Ok((ip, answer?))).collect();
            world.set_on_link(answers.map_err(StartError::Kernel)?);
        }
        let observed = kernel.observe(world.wanted())?;
        world.observe(observed);
        self.ops = world.preview();
        // They live in the daemon's process: whether they are as they should be is for `status` to say.
        self.ops.retain(|op| !matches!(op.key, Key::Forward(_) | Key::Engine(_)));
        let direct = |via: &Via| matches!(via, Via::Direct { .. });
        if world.facts().network.backend == Backend::HostGw
            && self.ops.iter().any(|op| matches!(&op.to, Some(Object::Route(route)) if direct(&route.via)))
        {
            self.notes.push("host-gw routes need every peer on the uplink's own link".into());
        }
        let refused = world.roster().refused().iter().map(|(key, refused)| (key.clone(), refused.reason.to_string()));
        self.refused = refused.collect();
        Ok(())
    }
}

/// How a lease that we keep would be written anew, if it would.
fn rewrite(wish: &LeaseValue, record: &LeaseRecord) -> Option<String> {
    let key = &record.key;
    let Some(stored) = alloc::parse(&record.value) else { return Some(format!("write our value into lease {key}")) };
    // Fields of others stay.
    let wish = LeaseValue { other: stored.other.clone(), ..wish.clone() };
    if stored == wish {
        return None;
    }
    let fields = |value: &LeaseValue| match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (old, new) = (fields(&stored), fields(&wish));
    let changed: Vec<_> = old.keys().chain(new.keys().filter(|field| !old.contains_key(*field))).collect();
    let shown = |value: Option<&serde_json::Value>| value.map_or("nothing".to_owned(), ToString::to_string);
    let changed = changed.into_iter().filter(|field| old.get(*field) != new.get(*field));
    let changed: Vec<_> =
        changed.map(|field| format!("{field} {} to {}", shown(old.get(field)), shown(new.get(field)))).collect();
    Some(format!("change lease {key}: {}", changed.join(", ")))
}
