//! Everything outside our table: flannel's chains and tables, the other flavour's, and accepts
//! where a FORWARD chain would kill our packets.

use super::{
    Flavour, HostFilter,
    object::{IPV4, IPV6},
    refused, table, tool,
    xtables::{Tool, Variant},
};
use crate::{
    filter::iptables::{Chain, forward_needs_accept},
    kernel::KernelError,
    model::FilterPolicy,
};

/// Tables of flannel's nftables mode.
const FLANNEL_TABLES: [(u8, &str); 2] = [(IPV4, "flannel-ipv4"), (IPV6, "flannel-ipv6")];

/// One thing to do with an iptables tool.
struct Step {
    tool: Tool,
    /// It puts rules; otherwise it takes some away.
    puts: bool,
    text: String,
}

impl HostFilter {
    /// iptables is as it should be beside (or as) our rules, and flannel's tables are gone.
    pub(super) fn is_tidy(&mut self, policy: Option<&FilterPolicy>) -> Result<bool, KernelError> {
        let (steps, error) = self.steps(policy);
        match error {
            // What cannot be read is reported when it is to be changed, not at every look.
            Some(error) if matches!(self.flavour, Flavour::Iptables(_)) => return Err(error),
            Some(error) => tracing::debug!(%error, "iptables cannot be read"),
            None => {}
        }
        Ok(steps.is_empty() && (policy.is_none() || !self.has_flannel_tables()?))
    }

    /// Makes it so: what is to be added first, so that no packet ever meets neither.
    pub(super) fn tidy(&mut self, policy: Option<&FilterPolicy>) -> Result<(), KernelError> {
        self.tools.forget();
        let (mut steps, mut error) = self.steps(policy);
        steps.sort_by_key(|step| !step.puts);
        let own = self.own.clone();
        let mut locked = false;
        for step in steps {
            // One wait for the xtables lock per turn is enough; the loop comes back.
            if locked && step.tool.variant == Variant::Legacy {
                continue;
            }
            match self.tools.restore(&step.tool, &step.text, &mut |process| own.note(process)) {
                Ok(()) if step.puts => {
                    tracing::info!(tool = step.tool.variant.name(), family = %step.tool.family, "iptables rules put");
                }
                Ok(()) => {
                    tracing::info!(tool = step.tool.variant.name(), family = %step.tool.family, "superseded iptables rules removed");
                }
                // Without ours in force, what is there must stay.
                Err(failure) if step.puts && matches!(self.flavour, Flavour::Iptables(_)) => return Err(failure),
                Err(failure) => {
                    locked |= failure.hint == tool::LOCKED;
                    error.get_or_insert(failure);
                }
            }
        }
        if policy.is_some() {
            self.remove_flannel_tables()?;
        }
        error.map_or(Ok(()), Err)
    }

    /// What to do in every tool, and the first that could not be read.
    fn steps(&mut self, policy: Option<&FilterPolicy>) -> (Vec<Step>, Option<KernelError>) {
        let (mut steps, mut error) = (Vec::new(), None);
        for tool in self.tools.all.clone() {
            for name in ["nat", "filter"] {
                let now = match self.tools.read(&tool, name, self.socket.as_mut()) {
                    Ok(now) => now,
                    Err(failure) => {
                        error.get_or_insert(failure);
                        continue;
                    }
                };
                let ours = self.flavour == Flavour::Iptables(tool.variant);
                let chain = match name {
                    "nat" if ours => Chain::masquerade(tool.family, policy),
                    "nat" => Chain::masquerade(tool.family, None),
                    _ if ours || forward_needs_accept(&now) => Chain::forward(tool.family, policy),
                    _ => Chain::forward(tool.family, None),
                };
                if let Some(text) = chain.converge(&now) {
                    steps.push(Step { tool: tool.clone(), puts: !chain.rules.is_empty(), text });
                }
            }
        }
        (steps, error)
    }

    fn has_flannel_tables(&mut self) -> Result<bool, KernelError> {
        let Some(socket) = &mut self.socket else { return Ok(false) };
        for (family, name) in FLANNEL_TABLES {
            if table::exists(socket, family, name).map_err(|refusal| refused("look for flannel's table", &refusal))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove_flannel_tables(&mut self) -> Result<(), KernelError> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        for (family, name) in FLANNEL_TABLES {
            let removed = table::delete(socket, family, name)
                .map_err(|refusal| refused(&format!("delete flannel's table {name}"), &refusal))?;
            if removed {
                tracing::info!(table = name, "flannel's rules removed, ours are in force");
            }
        }
        Ok(())
    }
}
