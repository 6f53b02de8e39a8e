//! The host's iptables tools: nft-backed and legacy, IPv4 and IPv6.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use super::{
    object::{IPV4, IPV6},
    socket::Socket,
    table, tool,
    turn::Turn,
};
use crate::{filter::saved::Table, kernel::KernelError, model::Family};

/// Legacy tables change without a notice; reading them takes no lock, but a process.
const LEGACY_FRESH: Duration = Duration::from_secs(4);
/// Writing waits this long for the xtables lock: long enough for kube-proxy's ordinary turns,
/// short enough for the reconcile loop, which comes back with its own back-off.
const WAIT: &str = "--wait=2";

/// The two kernel mechanisms behind one command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    Nft,
    Legacy,
}

impl Variant {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) family: Family,
    pub(super) variant: Variant,
    pub(super) save: String,
    pub(super) restore: String,
}

/// All tools of the host, and what they said last.
pub(super) struct Tools {
    pub(super) all: Vec<Tool>,
    /// What plain `iptables` is here.
    pub(super) default: Option<Variant>,
    pub(super) cache: HashMap<(Family, Variant, &'static str), (Stamp, Table)>,
    pub(super) turn: Turn,
}

/// When a cached answer was right.
pub(super) enum Stamp {
    Generation(u32),
    Time(Instant),
}

impl Tools {
    pub(super) fn discover() -> Self {
        let mut all = Vec::new();
        let plain = plain_variant();
        for (family, name) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            for (variant, suffix) in [(Variant::Nft, "-nft"), (Variant::Legacy, "-legacy")] {
                let infix = [suffix, ""].into_iter().find(|infix| {
                    (!infix.is_empty() || plain == Some(variant))
                        && tool::installed(&format!("{name}{infix}-save"))
                        && tool::installed(&format!("{name}{infix}-restore"))
                });
                if let Some(infix) = infix {
                    let (save, restore) = (format!("{name}{infix}-save"), format!("{name}{infix}-restore"));
                    all.push(Tool { family, variant, save, restore });
                }
            }
        }
        Self { all, default: plain, cache: HashMap::new(), turn: Turn::default() }
    }

    /// The table as it is, an empty one if the kernel has none; never creates it.
    pub(super) fn read(
        &mut self,
        tool: &Tool,
        name: &'static str,
        socket: Option<&mut Socket>,
    ) -> Result<Table, KernelError> {
        let key = (tool.family, tool.variant, name);
        let stamp = match tool.variant {
            Variant::Nft => {
                let Some(socket) = socket else { return Ok(Table::default()) };
                let family = if tool.family == Family::V4 { IPV4 } else { IPV6 };
                let exists = table::exists(socket, family, name)
                    .map_err(|refusal| super::refused("look for an nftables table", &refusal))?;
                if !exists {
                    return Ok(Table::default());
                }
                Stamp::Generation(
                    table::generation(socket)
                        .map_err(|refusal| super::refused("read the nftables generation", &refusal))?,
                )
            }
            Variant::Legacy if !legacy_table_exists(tool.family, name) => return Ok(Table::default()),
            Variant::Legacy => Stamp::Time(Instant::now()),
        };
        if let Some((cached, table)) = self.cache.get(&key) {
            let fresh = match (cached, &stamp) {
                (Stamp::Generation(then), Stamp::Generation(now)) => then == now,
                (Stamp::Time(then), Stamp::Time(now)) => now.duration_since(*then) < LEGACY_FRESH,
                _ => false,
            };
            if fresh {
                return Ok(table.clone());
            }
        }
        let text = self.turn.run(&tool.save, &["-t", name], "", &mut |_| {})?;
        let table = Table::parse(&text, name);
        self.cache.insert(key, (stamp, table.clone()));
        Ok(table)
    }

    /// Feeds `iptables-restore --noflush`: one transaction per table.
    pub(super) fn restore(&mut self, tool: &Tool, text: &str, started: &mut dyn FnMut(u32)) -> Result<(), KernelError> {
        self.cache.retain(|(family, variant, _), _| (*family, *variant) != (tool.family, tool.variant));
        self.turn.run(&tool.restore, &["--noflush", WAIT], text, started).map(drop)
    }

    /// Forgets what legacy tables looked like.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }
}

/// Asking the tool would make the kernel create the table. The file of the calling thread's
/// network namespace: `/proc/net` is that of the process's first thread.
fn legacy_table_exists(family: Family, name: &str) -> bool {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // Without the module there is no such file.
    fs::read_to_string(file).is_ok_and(|names| names.lines().any(|line| line == name))
}

/// `iptables v1.8.9 (nf_tables)`; before 1.8 there was no second kind and no word for it.
fn plain_variant() -> Option<Variant> {
    if !tool::installed("iptables") {
        return None;
    }
    match tool::run("iptables", &["--version"], "") {
        Ok(version) if version.contains("nf_tables") => Some(Variant::Nft),
        Ok(_) => Some(Variant::Legacy),
        Err(error) => {
            tracing::debug!(%error, "plain iptables does not run");
            None
        }
    }
}
