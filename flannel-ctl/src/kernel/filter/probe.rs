//! Which flavour this host gets, and why.

use super::{
    Flavour, HostFilter, Own, nft as flavour_nft, tool,
    xtables::{Tools, Variant},
};
use crate::{
    filter::nft,
    model::{FilterPolicy, GuardPolicy, Masquerade},
};

/// The operator's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// nftables if it works here, iptables if not.
    #[default]
    Auto,
    Nft,
    Iptables,
}

pub(super) fn open(choice: Choice) -> HostFilter {
    let tools = Tools::discover();
    let (socket, nftables) = match flavour_nft::open() {
        Ok(socket) => (Some(socket), try_nft()),
        Err(error) => (None, Err(error.to_string())),
    };
    let iptables = variant(tools.default, tools.all.iter().map(|tool| tool.variant), socket.is_some());
    let no_iptables = || "no iptables-save and iptables-restore".to_owned();
    let (flavour, why) = match (choice, &nftables, iptables) {
        (Choice::Auto, Ok(_), _) => (Flavour::Nft, "nft and the kernel's nf_tables work".to_owned()),
        (Choice::Nft, Ok(_), _) => (Flavour::Nft, "asked for".to_owned()),
        (Choice::Iptables, _, Some(variant)) => (Flavour::Iptables(variant), "asked for".to_owned()),
        (Choice::Auto, Err(error), Some(variant)) => {
            (Flavour::Iptables(variant), format!("nftables does not work here: {error}"))
        }
        (Choice::Nft, Err(error), _) => (Flavour::None, error.clone()),
        (Choice::Iptables, _, None) => (Flavour::None, no_iptables()),
        (Choice::Auto, Err(error), None) => (Flavour::None, format!("{error}; {}", no_iptables())),
    };
    let no_guard = match (flavour, nftables) {
        (Flavour::Nft, Ok(no_guard)) => no_guard,
        _ => Some("that takes nftables".to_owned()),
    };
    HostFilter { flavour, why, no_guard, own: Own::new(socket.as_ref()), socket, tools, cache: None }
}

/// Plain `iptables`, or else whichever is there; without nf_tables in the kernel only the legacy kind works,
/// whatever plain `iptables` is.
fn variant(
    default: Option<Variant>,
    mut all: impl Iterator<Item = Variant> + Clone,
    nf_tables: bool,
) -> Option<Variant> {
    if !nf_tables && all.clone().any(|there| there == Variant::Legacy) {
        return Some(Variant::Legacy);
    }
    default.or_else(|| all.next())
}

/// Tries every kind of rule that we ever load, without loading any. `Ok(Some(why))`: all but
/// the guard.
fn try_nft() -> Result<Option<String>, String> {
    if !tool::installed("nft") {
        return Err("there is no nft program".to_owned());
    }
    let mut policy = sample();
    let Err(with_guard) = flavour_nft::check(&(nft::foundation(true) + &nft::rules(&policy).script)) else {
        return Ok(None);
    };
    policy.guard = None;
    flavour_nft::check(&(nft::foundation(false) + &nft::rules(&policy).script)).map_err(|error| error.to_string())?;
    Ok(Some(with_guard.to_string()))
}

fn sample() -> FilterPolicy {
    let masquerade = |network: &str, subnet: &str| Masquerade {
        network: network.parse().expect("a network"),
        subnet: subnet.parse().expect("a network"),
        exclude: Vec::new(),
        fully_random: true,
    };
    let masquerade = vec![masquerade("10.0.0.0/8", "10.1.1.0/24"), masquerade("fd00::/48", "fd00:0:0:1::/64")];
    let forward = masquerade.iter().map(|masquerade| masquerade.network).collect();
    let guard = GuardPolicy {
        port: 8472,
        vni: Some(1),
        count_only: false,
        v4_len: Some(24),
        v6_len: Some(64),
        pods: Vec::new(),
    };
    FilterPolicy { masquerade, forward, guard: Some(guard) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_nf_tables_in_the_kernel_the_nft_kind_of_iptables_is_no_choice() {
        let both = [Variant::Nft, Variant::Legacy];
        let choose = |default, all: &[Variant], nf_tables| variant(default, all.iter().copied(), nf_tables);
        assert_eq!(choose(Some(Variant::Nft), &both, true), Some(Variant::Nft));
        assert_eq!(choose(Some(Variant::Nft), &both, false), Some(Variant::Legacy));
        assert_eq!(choose(Some(Variant::Legacy), &both, true), Some(Variant::Legacy));
        assert_eq!(choose(None, &both, true), Some(Variant::Nft));
        assert_eq!(
            choose(Some(Variant::Nft), &[Variant::Nft], false),
            Some(Variant::Nft),
            "it says itself what is wrong"
        );
        assert_eq!(choose(None, &[], false), None);
    }
}
