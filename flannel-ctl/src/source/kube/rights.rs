//! PURE: what the API server must let us do. The manifest in `deploy/kubernetes` grants exactly this.

/// One request that a role must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    pub resource: &'static str,
}

impl Right {
    pub const GET_NODE: Self = Self { verb: "get", resource: "nodes" };
    pub const LIST_NODES: Self = Self { verb: "list", resource: "nodes" };
    pub const WATCH_NODES: Self = Self { verb: "watch", resource: "nodes" };
    pub const PATCH_NODE_STATUS: Self = Self { verb: "patch", resource: "nodes/status" };
    /// Asked for only where nothing but the pod's name says which node this is, as in flannel's own manifest.
    pub const GET_POD: Self = Self { verb: "get", resource: "pods" };

    /// All that are needed where the node's name is given.
    pub const NEEDED: [Self; 4] = [Self::GET_NODE, Self::LIST_NODES, Self::WATCH_NODES, Self::PATCH_NODE_STATUS];
}
