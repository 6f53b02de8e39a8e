//! `flannel-ctl leases`: who holds which subnet.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::bail;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    run_args::SourceArgs,
    store_session::{block_on, of_kube, with_etcd},
};
use crate::{
    alloc,
    config::{netconf, settings::SourceChoice},
    model::{LeaseRecord, LeaseValue, Network, Subnet},
    output::{self, OutputArgs, Table},
    source::{
        etcd::{Session, Write},
        kube::cut_by,
    },
};

/// Arguments of `leases`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List every lease and reservation
    List(List),
    /// Keep a subnet for a node, or from all of them, for ever
    Reserve(Reserve),
    /// Delete a lease or a reservation
    Release(Release),
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub struct Reserve {
    /// 10.5.48.0/24, or 10.5.48.0/24,fc00:5:0:3e::/64 in dual stack
    #[arg(value_parser = parse_subnet)]
    pub subnet: Subnet,
    /// Keep it for the node with this public IPv4 address
    #[arg(long, value_name = "IP")]
    pub public_ip: Option<Ipv4Addr>,
    /// Keep it for the IPv6-only node with this public address
    #[arg(long, value_name = "IP")]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Keep it for the node with this id (the file node-id in its state directory)
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub struct Release {
    /// The subnet, or the key as `leases list` shows it
    pub subnet: String,
    /// Release it even if a node holds it
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub source: SourceArgs,
}

/// One key of `leases list`. The JSON field names stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRow {
    pub key: String,
    pub ipv4: Option<IpNet>,
    pub ipv6: Option<IpNet>,
    pub node: String,
    pub node_id: String,
    pub public_ip: Option<Ipv4Addr>,
    pub public_ipv6: Option<Ipv6Addr>,
    pub backend: String,
    /// Never expires.
    pub reservation: bool,
    pub created_revision: i64,
    pub modified_revision: i64,
    /// etcd's lease id in hexadecimal, as etcdctl writes it.
    pub lease_id: Option<String>,
    /// Why no node would use it.
    pub problem: Option<String>,
}

/// Why some verbs do nothing beside another source.
const ALLOCATED: &str = "subnets are handed out elsewhere: in Kubernetes a node's podCIDR comes from \
                         kube-controller-manager and goes with the Node object; with --source=file edit the list of nodes";

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => {
            let rows = rows(&args.source)?;
            output::print(args.output.output, &rows, |rows| render(rows))?;
        }
        Verb::Reserve(args) => {
            output::emit(&block_on(&args.source, ALLOCATED, async |session| reserve(session, args).await)?)?;
        }
        Verb::Release(args) => {
            output::emit(&block_on(&args.source, ALLOCATED, async |session| release(session, args).await)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(source: &SourceArgs) -> anyhow::Result<Vec<LeaseRow>> {
    let rows = |records: &[LeaseRecord], network: Option<Network>| {
        records.iter().map(|record| row(record, network.as_ref())).collect()
    };
    match source.source()? {
        (SourceChoice::Etcd(etcd), _) => with_etcd(etcd, async |session| {
            let network = session.config().await?.and_then(|stored| netconf::parse(&stored.value).ok());
            Ok(rows(&session.list().await?.records, network))
        }),
        (SourceChoice::Kube(kube), net_config) => {
            let (records, network) = of_kube(&kube, &net_config)?;
            // How long a podCIDR is, is Kubernetes' choice.
            let cut = records.iter().find_map(|record| Subnet::from_key(&record.key).ok());
            let network = network.zip(cut).and_then(|(network, cut)| cut_by(&network, &cut).ok());
            Ok(rows(&records, network))
        }
        (SourceChoice::File(path), _) => bail!("the leases are in {}: read them there", path.display()),
    }
}

async fn reserve(session: &Session, args: &Reserve) -> anyhow::Result<String> {
    let subnet = args.subnet;
    if let Some(stored) = session.config().await? {
        let network = netconf::parse(&stored.value)?;
        if !alloc::fits(&subnet, &network) {
            bail!(
                "{subnet} is no subnet of the network: no node would take it (see `flannel-ctl config show --defaults`)"
            );
        }
    }
    let wish = LeaseValue {
        public_ip: args.public_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_ipv6: args.public_ipv6,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        node_id: args.node_id.clone().unwrap_or_default(),
        node_name: String::new(),
        other: serde_json::Map::new(),
    };
    let listing = session.list().await?;
    let (key, mut value, mut expected) = (subnet.key(), serde_json::to_vec(&wish)?, 0);
    for record in &listing.records {
        if Subnet::from_key(&record.key).is_ok_and(|other| other.overlaps(&subnet)) {
            if record.key != key || !is_for_holder(&record.value, &wish) {
                bail!("{} is held by {}; release it first", record.key, holder(record));
            }
            if record.lease_id == 0 {
                return Ok(format!("{subnet} is reserved for that node already\n"));
            }
            // The node goes on with what it has, and keeps it from now on.
            (value, expected) = (record.value.clone(), record.modified);
        }
    }
    match session.write(&key, expected, &value, 0).await? {
        Write::Done(_) => Ok(format!("reserved {subnet}\n")),
        Write::Changed(Some(now)) => bail!("{subnet} was taken by {} meanwhile", holder(&now)),
        Write::Changed(None) => bail!("{subnet} was released meanwhile; try again"),
    }
}

/// The wish names the node that holds the lease: by its id, or by its address alone.
fn is_for_holder(held: &[u8], wish: &LeaseValue) -> bool {
    let Some(mut held) = alloc::parse(held) else { return false };
    if wish.node_id.is_empty() {
        held.node_id.clear();
    }
    let Ok(held) = serde_json::to_vec(&held) else { return false };
    matches!(alloc::owner(&held, wish), alloc::Owner::Us | alloc::Owner::OurAddress)
}

async fn release(session: &Session, args: &Release) -> anyhow::Result<String> {
    let key = parse_subnet(&args.subnet).map_or_else(|_| args.subnet.clone(), |subnet| subnet.key());
    let Some(record) = session.get(&key).await? else { bail!("there is no key {key} (see `flannel-ctl leases list`)") };
    if record.lease_id != 0 && !args.force {
        bail!(
            "{key} is held by {}; if that node is gone for good, use --force (a running node takes it back at once)",
            holder(&record)
        );
    }
    match session.delete(&key, record.modified).await? {
        Write::Done(_) => Ok(format!("released {key}, which was held by {}\n", holder(&record))),
        Write::Changed(_) => bail!("{key} changed meanwhile; look at it and try again"),
    }
}

fn holder(record: &LeaseRecord) -> String {
    let row = row(record, None);
    let address = match (row.public_ip.filter(|ip| !ip.is_unspecified()), row.public_ipv6) {
        (Some(ip), _) => ip.to_string(),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => String::new(),
    };
    match (row.node.is_empty(), address.is_empty()) {
        (false, false) => format!("{} ({address})", row.node),
        (false, true) => row.node,
        (true, false) => address,
        (true, true) if record.lease_id == 0 => "a reservation for nobody in particular".into(),
        (true, true) => "a value that is no lease".into(),
    }
}

fn row(record: &LeaseRecord, network: Option<&Network>) -> LeaseRow {
    let subnet = Subnet::from_key(&record.key);
    let value = alloc::parse(&record.value);
    let reservation = record.lease_id == 0;
    let problem = match (&subnet, &value) {
        (Err(error), _) => Some(format!("the key is {error}")),
        (Ok(subnet), _) if network.is_some_and(|network| !alloc::fits(subnet, network)) => {
            Some("not a subnet of the network".into())
        }
        (Ok(_), None) if reservation && record.value.is_empty() => None,
        (Ok(_), None) => Some("the value cannot be read".into()),
        (Ok(_), Some(_)) => None,
    };
    let value = value.as_ref();
    LeaseRow {
        key: record.key.clone(),
        ipv4: subnet.as_ref().ok().and_then(Subnet::v4).map(IpNet::V4),
        ipv6: subnet.as_ref().ok().and_then(Subnet::v6).map(IpNet::V6),
        node: value.map(|value| value.node_name.clone()).unwrap_or_default(),
        node_id: value.map(|value| value.node_id.clone()).unwrap_or_default(),
        public_ip: value.map(|value| value.public_ip),
        public_ipv6: value.and_then(|value| value.public_ipv6),
        backend: value.map(|value| value.backend_type.clone()).unwrap_or_default(),
        reservation,
        created_revision: record.created,
        modified_revision: record.modified,
        lease_id: (!reservation).then(|| format!("{:x}", record.lease_id)),
        problem,
    }
}

fn render(rows: &[LeaseRow]) -> String {
    let mut table = Table::new(["SUBNET", "NODE", "PUBLIC ADDRESS", "BACKEND", "KIND", "PROBLEM"]);
    for row in rows {
        let nets = [row.ipv4, row.ipv6].into_iter().flatten().map(|net| net.to_string()).collect::<Vec<_>>().join(",");
        let v4 = row.public_ip.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let addresses = v4.into_iter().chain(row.public_ipv6.map(|ip| ip.to_string())).collect::<Vec<_>>().join(",");
        table.row([
            if nets.is_empty() { row.key.clone() } else { nets },
            row.node.clone(),
            addresses,
            row.backend.clone(),
            if row.reservation { "reservation" } else { "lease" }.into(),
            row.problem.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// `10.5.48.0/24`, `10.5.48.0/24,fc00:5:0:3e::/64`, or the form of the key.
fn parse_subnet(text: &str) -> Result<Subnet, String> {
    if let Ok(subnet) = Subnet::from_key(text) {
        return Ok(subnet);
    }
    let (mut v4, mut v6) = (None, None);
    for part in text.split(',') {
        match part.trim().parse() {
            Ok(IpNet::V4(net)) if v4.is_none() && net == net.trunc() => v4 = Some(net),
            Ok(IpNet::V6(net)) if v6.is_none() && net == net.trunc() => v6 = Some(net),
            Ok(_) => {
                return Err(format!("{part}: at most one subnet per family, without bits beyond its prefix length"));
            }
            Err(_) => return Err(format!("{part:?} is not of the form 10.5.48.0/24")),
        }
    }
    Subnet::new(v4, v6).ok_or_else(|| "no subnet".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_in_the_ways_people_write_them() {
        let key = |text| parse_subnet(text).map(|subnet| subnet.key());
        assert_eq!(key("10.5.48.0/24").as_deref(), Ok("10.5.48.0-24"));
        assert_eq!(key("10.5.48.0-24").as_deref(), Ok("10.5.48.0-24"));
        assert_eq!(key("10.5.48.0/24,fc00::/64").as_deref(), Ok("10.5.48.0-24&fc00::-64"));
        for bad in ["", "10.5.48.0", "10.5.48.1/24", "10.5.48.0/24,10.5.49.0/24", "x"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lease_becomes_a_reservation_for_its_holder_by_id_or_by_address() {
        let held = br#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"NodeID":"a"}"#;
        let fits = |wish: &str| is_for_holder(held, &serde_json::from_str(wish).unwrap());
        assert!(fits(r#"{"PublicIP":"0.0.0.0","NodeID":"a"}"#));
        assert!(fits(r#"{"PublicIP":"192.0.2.1"}"#));
        assert!(!fits(r#"{"PublicIP":"192.0.2.1","NodeID":"b"}"#), "another node behind that address");
        assert!(!fits(r#"{"PublicIP":"192.0.2.2"}"#));
        assert!(!fits(r#"{"PublicIP":"0.0.0.0"}"#), "nobody in particular");
        assert!(!is_for_holder(b"", &serde_json::from_str(r#"{"PublicIP":"192.0.2.1"}"#).unwrap()));
    }

    #[test]
    fn the_table_names_what_is_wrong() {
        let record = |key: &str, value: &str, lease_id| LeaseRecord {
            key: key.into(),
            value: value.into(),
            created: 3,
            modified: 4,
            lease_id,
        };
        let network = netconf::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let rows: Vec<LeaseRow> = [
            record("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1","BackendType":"vxlan","NodeName":"one"}"#, 255),
            record("10.5.2.0-24", r#"{"PublicIP":"0.0.0.0"}"#, 0),
            record("10.9.2.0-24", r#"{"PublicIP":"192.0.2.9"}"#, 9),
            record("nonsense", "{{{{", 9),
            record("10.5.7.0-24", "{{{{", 9),
        ]
        .iter()
        .map(|record| row(record, Some(&network)))
        .collect();
        assert_eq!(
            render(&rows),
            "SUBNET       NODE  PUBLIC ADDRESS  BACKEND  KIND         PROBLEM\n\
             10.5.1.0/24  one   192.0.2.1       vxlan    lease        -\n\
             10.5.2.0/24  -     -               -        reservation  -\n\
             10.9.2.0/24  -     192.0.2.9       -        lease        not a subnet of the network\n\
             nonsense     -     -               -        lease        the key is not of the form 10.5.48.0-24, 10.5.48.0-24&fc00::-64 or fc00::-64\n\
             10.5.7.0/24  -     -               -        lease        the value cannot be read\n"
        );
        assert_eq!(rows[0].lease_id.as_deref(), Some("ff"));
    }
}
