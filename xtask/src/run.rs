//! `cargo xtask run`: a whole cluster on one machine.

mod table;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use xtask::lab::{Cluster, Family, Launch, Mesh, StoreKind, missing_root, wait};

use crate::{
    cargo::{cargo, succeed},
    tools::{self, Tool, say},
};

/// Namespaces are `flan1`, `flan1-pod`, ..., `flan-net`.
const PREFIX: &str = "flan";
/// How long the mesh may take after the last node is ready.
const MESH_LIMIT: Duration = Duration::from_secs(20);

/// Starts a store and N nodes as network namespaces, each with the real daemon and a pod, and pings every pod
/// from every other. Needs root. Nothing is left behind.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Where leases are kept: embedded (flannel-ctl store), etcd (the PATH's), or the http:// URL of one elsewhere
    #[arg(long, default_value = "embedded")]
    store: StoreKind,
    /// What carries the packets: one for all nodes, or a list for node 1, node 2 and so on, from the start again
    /// when it ends: auto, vxlan, ebpf, userspace
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    datapath: Vec<String>,
    /// IPv6 beside IPv4
    #[arg(long)]
    ipv6: bool,
    /// Print the result and end: exit status 0 only if the whole mesh works in every family
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(reason) = missing_root() {
        bail!("{reason}");
    }
    prepare_machine(args)?;
    let families = if args.ipv6 { vec![Family::V4, Family::V6] } else { vec![Family::V4] };
    say(&format!("starting the store ({}) and {} nodes as network namespaces {PREFIX}1...", store(args), args.nodes));
    let launches = args
        .datapath
        .iter()
        .map(|datapath| Launch { args: vec!["--datapath".into(), datapath.clone()], ..Launch::default() })
        .collect();
    let start = Instant::now();
    let cluster = Cluster::builder(PREFIX)
        .nodes(args.nodes)
        .families(&families)
        .store(args.store.clone())
        .launches(launches)
        .start()?;
    say(&format!(
        "every node is ready after {:.1} s; pinging every pod from every other",
        start.elapsed().as_secs_f64()
    ));
    let mesh = if args.nodes == 1 { Mesh::default() } else { cluster.wait_mesh(MESH_LIMIT)? };
    let works = mesh.whole() || args.nodes == 1;
    if args.once {
        print!("\n{}\n{}", table::render(&cluster, &mesh), verdict(&mesh, &families));
        if !works {
            table::explain(&cluster, &mesh);
        }
        drop(cluster);
        return Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    watch(&cluster, mesh, &families)?;
    say("removing everything");
    drop(cluster);
    Ok(ExitCode::SUCCESS)
}

fn prepare_machine(args: &Args) -> Result<()> {
    let mut wanted = vec![Tool::Program("ip", "iproute2"), Tool::Program("nft", "nftables")];
    if args.store == StoreKind::Etcd {
        wanted.push(Tool::Program("etcd", "etcd-server"));
    }
    if args.datapath.iter().any(|datapath| datapath == "ebpf") {
        wanted.extend(tools::BPF);
    }
    tools::ensure(&wanted)?;
    say("building flannel-ctl (dev profile, the quickest to build; a first build takes a few minutes)");
    succeed(cargo().args(["build", "--package", "flannel-ctl", "--bin", "flannel-ctl"]), "building flannel-ctl")
}

/// Redraws the table until Ctrl-C.
fn watch(cluster: &Cluster, mut mesh: Mesh, families: &[Family]) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let pause = Duration::from_secs(if terminal { 1 } else { 5 });
    while !wait::interrupted() {
        let clear = if terminal { "\x1b[H\x1b[J" } else { "\n" };
        let text = format!(
            "{clear}{}\n{}\nTry: ip netns exec {PREFIX}1-pod ping {}\nCtrl-C ends it and removes everything.\n",
            table::render(cluster, &mesh),
            verdict(&mesh, families),
            cluster
                .nodes()
                .last()
                .and_then(|node| node.pod().address(Family::V4))
                .map_or_else(String::new, |a| a.to_string()),
        );
        let mut out = std::io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(()); // nobody looks any more
        }
        drop(out);
        let next = Instant::now() + pause;
        while Instant::now() < next && !wait::interrupted() {
            thread::sleep(Duration::from_millis(50));
        }
        if cluster.nodes().len() > 1 {
            mesh = cluster.mesh()?;
        }
    }
    Ok(())
}

fn verdict(mesh: &Mesh, families: &[Family]) -> String {
    let families: Vec<_> = families.iter().map(ToString::to_string).collect();
    let latency = mesh.median(None).map_or_else(String::new, |median| format!(", median {}", table::millis(median)));
    format!("mesh ({}): {mesh}{latency}\n", families.join(" and "))
}

fn store(args: &Args) -> String {
    match &args.store {
        StoreKind::Embedded => "flannel-ctl store".to_owned(),
        StoreKind::Etcd => "etcd".to_owned(),
        StoreKind::Url(url) | StoreKind::Given(url) => url.clone(),
    }
}
