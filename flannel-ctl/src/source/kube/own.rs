//! PURE: what our own node must say, and whether it does.

use serde_json::{Value, json};

use super::{
    annotations::{Annotations, Names, differing},
    node::{Node, REASON, cut_by, enabled},
};
use crate::{
    model::{LeaseValue, Network},
    source::OwnLease,
};

/// What follows from a node as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    pub(super) lease: OwnLease,
    /// Annotations that are not as they should be.
    pub(super) wrong: Annotations,
}

/// The error: there is no subnet for us to use, and waiting is all that is left to do. `wish`: what we want to
/// say. `network`: what we started with.
pub(super) fn judge(
    name: &str,
    node: Option<&Node>,
    wish: &LeaseValue,
    network: &Network,
    names: &Names,
) -> Result<Standing, String> {
    let node = node.ok_or_else(|| {
        format!("node {name} is not there any more: kubelet registers it again when it starts; what is in place stays")
    })?;
    let subnet = node.subnet().map_err(|reason| without_range(name, &reason))?;
    if cut_by(network, &subnet)? != *network {
        return Err(format!(
            "the podCIDR of node {name} is now {subnet}, of another size than the one that was started with: restart \
             flannel-ctl"
        ));
    }
    let usable = enabled(network, &subnet).ok_or_else(|| without_range(name, "has no podCIDR"))?;
    let mut value = wish.clone();
    if let Ok(overwrite) = names.overwrite(node.annotations()) {
        value.public_ip = overwrite.v4.filter(|_| usable.v4().is_some()).unwrap_or(value.public_ip);
        value.public_ipv6 = overwrite.v6.filter(|_| usable.v6().is_some()).or(value.public_ipv6);
    }
    let wrong = differing(&names.of_lease(&value, &usable), node.annotations());
    Ok(Standing { lease: OwnLease { key: subnet.key(), subnet: usable, value }, wrong })
}

/// Our node has no range that we could use.
pub(super) fn without_range(name: &str, reason: &str) -> String {
    format!(
        "node {name} {reason}: kube-controller-manager hands them out with --allocate-node-cidrs and --cluster-cidr \
         (kubeadm: --pod-network-cidr)"
    )
}

/// The patch that makes annotations so.
pub(super) fn annotate(annotations: &Annotations) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

/// flannel's patch that lets the scheduler put pods here. `now`: as RFC 3339 has it.
pub(super) fn call_available(now: &str) -> Value {
    json!({"status": {"conditions": [{
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": REASON,
        "message": "Flannel is running on this node",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }]}})
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
