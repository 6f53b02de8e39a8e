//! `flannel-ctl config`: the cluster's network config.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};

use super::{
    run_args::SourceArgs,
    store_session::{block_on, with_etcd},
};
use crate::{
    alloc,
    config::{netconf, settings::SourceChoice},
    model::{Network, Subnet},
    output,
    source::etcd::Session,
};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Print the network config that the store has
    Show(Show),
    /// Check a network config and print it with all defaults filled in
    Validate(Validate),
    /// Write a network config to the store
    Publish(Publish),
}

#[derive(Debug, clap::Args)]
pub struct Show {
    /// Print what it means, with all defaults filled in, instead of the text as stored
    #[arg(long)]
    pub defaults: bool,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub struct Validate {
    /// JSON file; - is standard input
    pub file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Publish {
    /// JSON file; - is standard input
    pub file: PathBuf,
    /// Write even if somebody else changed the config meanwhile
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub source: SourceArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Show(args) => show(args)?,
        Verb::Validate(args) => {
            let network = netconf::parse(&read(&args.file)?)?;
            output::emit(&effective(&network)?)?;
        }
        Verb::Publish(args) => publish(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Why `publish` does nothing beside another source.
const IN_A_FILE: &str = "there is no store to publish to: the network config is the file of --net-config-path, in Kubernetes \
                         a ConfigMap (`kubectl edit configmap`)";

fn show(args: &Show) -> anyhow::Result<()> {
    let stored = match args.source.source()? {
        (SourceChoice::Etcd(etcd), _) => {
            let ask = async |session: &Session| Ok((session.config_key().to_owned(), session.config().await?));
            let (key, stored) = with_etcd(etcd, ask)?;
            let Some(stored) = stored else {
                bail!("there is no network config at {key}; publish one with `flannel-ctl config publish FILE`")
            };
            stored.value
        }
        (SourceChoice::Kube(_) | SourceChoice::File(_), path) => read(&path)?,
    };
    if args.defaults {
        output::emit(&effective(&netconf::parse(&stored)?)?)?;
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&stored).into_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    output::emit(&text)?;
    // The text may be what it is; that it is bad has to show.
    netconf::parse(&stored)?;
    Ok(())
}

fn publish(args: &Publish) -> anyhow::Result<()> {
    let text = read(&args.file)?;
    let network = netconf::parse(&text)?;
    let text = text.trim_ascii();
    let said =
        block_on(&args.source, IN_A_FILE, async |session| publish_to(session, text, &network, args.force).await)?;
    output::emit(&said)?;
    Ok(())
}

async fn publish_to(session: &Session, text: &[u8], network: &Network, force: bool) -> anyhow::Result<String> {
    let key = session.config_key();
    let before = session.config().await?;
    if before.as_ref().is_some_and(|before| before.value == text) {
        return Ok(format!("{key} has exactly this config already\n"));
    }
    let mut said = String::new();
    let outside = outside(session, network).await?;
    if !outside.is_empty() {
        said = format!(
            "warning: {} leases do not fit the new network; their nodes take new subnets when they restart: {}\n",
            outside.len(),
            outside.iter().take(10).cloned().collect::<Vec<_>>().join(" ")
        );
    }
    let expected = before.as_ref().map_or(0, |before| before.modified);
    if !session.put_config(text, (!force).then_some(expected)).await? {
        bail!(
            "{key} was changed by somebody else meanwhile; look at it with `flannel-ctl config show`, then try again"
        );
    }
    writeln!(said, "published at {key}")?;
    if before.is_some() {
        said.push_str("running agents go on with the old config until they are restarted\n");
    }
    Ok(said)
}

/// Keys of subnets that the new network has no place for.
async fn outside(session: &Session, network: &Network) -> anyhow::Result<Vec<String>> {
    let records = session.list().await?.records;
    let misfit = |key: &str| Subnet::from_key(key).is_ok_and(|subnet| !alloc::fits(&subnet, network));
    Ok(records.into_iter().map(|record| record.key).filter(|key| misfit(key)).collect())
}

fn effective(network: &Network) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&netconf::to_json(network))?))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().lock().take(netconf::LARGEST as u64 + 1).read_to_end(&mut text).context("read standard input")?;
        return Ok(text);
    }
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
