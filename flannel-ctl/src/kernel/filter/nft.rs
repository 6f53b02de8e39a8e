//! The nftables flavour: loading, sealing, the guard's elements.

use nix::errno::Errno;

use super::{Flavour, HostFilter, elements, object, refused, socket::Socket, table, tool};
use crate::{
    filter::{
        guard::Entry,
        nft::{self, Rules, TABLE},
    },
    kernel::{KernelError, netlink::refusal::Refusal},
    model::FilterPolicy,
};

/// Reads that a busy host disturbs are tried this often.
const READ_TRIES: u32 = 10;

impl HostFilter {
    /// Our table as it is; read again only when some rule of the host changed.
    pub(super) fn snapshot(&mut self) -> Result<&table::Snapshot, KernelError> {
        let failed = |refusal: Refusal| refused("read our nftables table", &refusal);
        let socket = self.socket.as_mut().ok_or_else(no_nftables)?;
        for _ in 0..READ_TRIES {
            let before = table::generation(socket).map_err(failed)?;
            if self.cache.as_ref().is_some_and(|(generation, _)| *generation == before) {
                break;
            }
            let snapshot = table::read(socket).map_err(failed)?;
            self.cache = None;
            if table::generation(socket).map_err(failed)? == before {
                self.cache = Some((before, snapshot));
                break;
            }
        }
        self.cache
            .as_ref()
            .map(|(_, snapshot)| snapshot)
            .ok_or_else(|| failed(Refusal::new(Errno::EINTR, "the host's rules changed whenever they were read")))
    }

    /// Exactly these rules are in force (in the nftables flavour; iptables has its own check).
    pub(super) fn holds(&mut self, policy: &FilterPolicy) -> Result<bool, KernelError> {
        match self.flavour {
            Flavour::Nft => {
                let script = nft::rules(policy).fingerprint();
                Ok(self.snapshot()?.holds(script))
            }
            Flavour::Iptables(_) => Ok(!self.table_exists()?),
            Flavour::None => Ok(false),
        }
    }

    pub(super) fn table_exists(&mut self) -> Result<bool, KernelError> {
        match &mut self.socket {
            Some(socket) => table::exists(socket, object::INET, TABLE)
                .map_err(|refusal| refused("look for our nftables table", &refusal)),
            None => Ok(false),
        }
    }

    pub(super) fn remove_table(&mut self) -> Result<(), KernelError> {
        self.cache = None;
        match &mut self.socket {
            Some(socket) => table::delete(socket, object::INET, TABLE)
                .map(drop)
                .map_err(|refusal| refused("delete our nftables table", &refusal)),
            None => Ok(()),
        }
    }

    /// Puts the rules in force, in one transaction; does nothing if they are. `pending`: entries
    /// that could not be added before, since the sets are not ours.
    pub(super) fn load(&mut self, policy: &FilterPolicy, pending: &[Entry]) -> Result<(), KernelError> {
        let rules = nft::rules(policy);
        let script = rules.fingerprint();
        let guard = self.no_guard.is_none();
        let before = self.snapshot()?;
        if before.holds(script) {
            return Ok(());
        }
        let entries: Vec<Entry> = before.entries.iter().chain(pending).copied().collect();
        let spoilt = before.spoilt;
        let soft = if spoilt { Ok(()) } else { self.script(&(nft::foundation(guard) + &rules.script)) };
        let held = match &soft {
            Ok(()) if !spoilt => self.is_as_rendered(&rules)?,
            _ => false,
        };
        if !held {
            if let Err(error) = &soft {
                tracing::debug!(%error, "our table is not as we left it and is made anew");
            }
            self.script(&nft::rebuild(&rules, guard, &entries))?;
            if !self.is_as_rendered(&rules)? {
                return Err(KernelError {
                    attempt: "load our nftables rules".into(),
                    answer: "the kernel holds other rules than were loaded".into(),
                    hint: Some("another program changes our table"),
                    errno: 0,
                });
            }
        }
        let kernel = self.snapshot()?.kernel;
        let socket = self.socket.as_mut().ok_or_else(no_nftables)?;
        table::seal(socket, script, kernel).map_err(|refusal| refused("seal our nftables table", &refusal))?;
        tracing::info!(rules = rules.chains.values().sum::<usize>(), "packet filter rules loaded");
        Ok(())
    }

    /// Adds and removes set elements; makes the sets if there are none.
    pub(super) fn change_entries(&mut self, add: &[Entry], remove: &[Entry]) -> Result<(), KernelError> {
        if !add.is_empty() && !self.snapshot()?.sets {
            self.script(&nft::foundation(true))?;
        }
        let mut remove = remove.to_vec();
        if !remove.is_empty() {
            let present = &self.snapshot()?.entries;
            remove.retain(|entry| present.contains(entry));
        }
        let attempt = format!("change the guard's set by {} entries", add.len() + remove.len());
        let socket = self.socket.as_mut().ok_or_else(no_nftables)?;
        if let Err(refusal) = elements::change(socket, add, &remove) {
            self.cache = None;
            return Err(refused(&attempt, &refusal));
        }
        self.remember(add, &remove).map_err(|refusal| refused("read the nftables generation", &refusal))
    }

    /// Keeps the cache if nobody else changed anything meanwhile: our transaction counts one.
    fn remember(&mut self, add: &[Entry], remove: &[Entry]) -> Result<(), Refusal> {
        let (Some(socket), Some((generation, snapshot))) = (self.socket.as_mut(), self.cache.as_mut()) else {
            return Ok(());
        };
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let now = table::generation(socket)?;
        if now == generation.wrapping_add(1) {
            *generation = now;
            snapshot.entries.extend(add);
            for entry in remove {
                snapshot.entries.remove(entry);
            }
        } else {
            self.cache = None;
        }
        Ok(())
    }

    fn is_as_rendered(&mut self, rules: &Rules) -> Result<bool, KernelError> {
        let snapshot = self.snapshot()?;
        Ok(snapshot
            .chains
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .eq(rules.chains.iter().map(|(name, count)| (*name, *count))))
    }

    fn script(&mut self, text: &str) -> Result<(), KernelError> {
        self.cache = None;
        let own = self.own.clone();
        self.tools.turn.run("nft", &["-f", "-"], text, &mut |process| own.note(process)).map(drop)
    }
}

/// Whether `nft` and the kernel would take this; changes nothing.
pub(super) fn check(text: &str) -> Result<(), KernelError> {
    tool::run("nft", &["--check", "-f", "-"], text).map(drop)
}

/// A socket, if this kernel has nf_tables and lets us.
pub(super) fn open() -> Result<Socket, KernelError> {
    let failed = |refusal: Refusal| refused("reach nf_tables", &refusal);
    let mut socket = Socket::open().map_err(failed)?;
    table::generation(&mut socket).map_err(failed)?;
    Ok(socket)
}

fn no_nftables() -> KernelError {
    refused("reach nf_tables", &Refusal::new(Errno::ENOSYS, "this kernel has no nf_tables"))
}
