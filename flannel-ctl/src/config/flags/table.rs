//! The options, in the order of the help.

use super::{Flag, Group, Removed};

/// What a verb needs that only talks to etcd.
pub const ETCD: &[Group] = &[ETCD_GROUP];

/// What a verb needs that only looks at a daemon's files.
pub const PATHS: &[Group] = &[PATHS_GROUP];

/// Everything that `run` takes.
pub const RUN: &[Group] = &[
    SOURCE_GROUP,
    ETCD_GROUP,
    LEASE_GROUP,
    KUBE_GROUP,
    UPLINK_GROUP,
    DATAPATH_GROUP,
    FILTER_GROUP,
    PATHS_GROUP,
    HEALTH_GROUP,
];

/// For verbs that only ask where leases are kept.
pub const SOURCE: &[Group] = &[SOURCE_GROUP, ETCD_GROUP, KUBE_GROUP];

const SOURCE_GROUP: Group = Group {
    heading: "Where leases come from",
    flags: &[
        Flag::choice("source", &["etcd", "kube", "file"], "Where leases and the network config are kept"),
        Flag::one(
            "peers-file",
            "PATH",
            "",
            "With --source=file: the list of all nodes, JSON or YAML, read again when it changes",
        )
        .ours(),
        Flag::one(
            "net-config-path",
            "PATH",
            "/etc/kube-flannel/net-conf.json",
            "With --source=file or kube: the network config",
        ),
    ],
};

const ETCD_GROUP: Group = Group {
    heading: "etcd, or flannel-ctl's own store",
    flags: &[
        Flag::one(
            "etcd-endpoints",
            "URLS",
            "http://127.0.0.1:4001,http://127.0.0.1:2379",
            "Comma-separated URLs; when one fails the next is tried",
        ),
        Flag::one("etcd-prefix", "KEY", "/coreos.com/network", "Key under which config and subnets lie"),
        Flag::one("etcd-cafile", "PATH", "", "CA certificates to check the server against; enough for https by itself"),
        Flag::one("etcd-certfile", "PATH", "", "Our client certificate; needs --etcd-keyfile"),
        Flag::one("etcd-keyfile", "PATH", "", "Private key of --etcd-certfile"),
        Flag::one("etcd-username", "NAME", "", "User name; needs --etcd-password"),
        Flag::one(
            "etcd-password",
            "TEXT",
            "",
            "Password; better given as FLANNELD_ETCD_PASSWORD, which other users cannot see",
        ),
    ],
};

const LEASE_GROUP: Group = Group {
    heading: "This node's lease",
    flags: &[
        Flag::one("node-name", "NAME", "", "What people know this node by; the host name if not given").ours(),
        Flag::one(
            "lease-ttl",
            "TIME",
            "24h",
            "How long the subnet stays ours after our last sign of life: 90s, 15m, 24h, 7d",
        )
        .ours(),
        Flag::switch(
            "release-on-exit",
            "false",
            "Give the subnet back on a clean exit instead of keeping it for our return",
        )
        .ours(),
        Flag::one(
            "subnet-lease-renew-margin",
            "MINUTES",
            "60",
            "Checked (1 to 1439) for flannel's sake, else unused: leases are kept alive all the time",
        )
        .ignored(),
    ],
};

const KUBE_GROUP: Group = Group {
    heading: "Kubernetes",
    flags: &[
        Flag::switch("kube-subnet-mgr", "false", "The same as --source=kube"),
        Flag::one("kube-api-url", "URL", "", "API server; needs no --kubeconfig-file"),
        Flag::one("kubeconfig-file", "PATH", "", "How to reach the API server; in a pod the service account is used"),
        Flag::one("kube-annotation-prefix", "DOMAIN", "flannel.alpha.coreos.com", "Prefix of the node annotations"),
        Flag::switch(
            "set-node-network-unavailable",
            "true",
            "Clear the node's NetworkUnavailable condition once we run",
        ),
    ],
};

const UPLINK_GROUP: Group = Group {
    heading: "The interface that carries the tunnel (default: the default route's)",
    flags: &[
        Flag::many("iface", "NAME|IP", "Name or address of an interface; repeat it, the first that fits is taken"),
        Flag::many(
            "iface-regex",
            "REGEX",
            "Matched against addresses, then names, once every --iface missed; repeatable",
        ),
        Flag::one("iface-can-reach", "IP", "", "Take the interface and source address of the route to this address"),
        Flag::one("public-ip", "IPV4", "", "What peers dial; without --iface it must be an address of this node"),
        Flag::one("public-ipv6", "IPV6", "", "The same for IPv6"),
    ],
};

const DATAPATH_GROUP: Group = Group {
    heading: "Datapath",
    flags: &[
        Flag::choice(
            "datapath",
            &["auto", "ebpf", "vxlan", "userspace"],
            "Who carries the packets; auto takes the fastest that works here, and `check` says which and why",
        ),
        Flag::choice(
            "fast-path",
            &["on", "off"],
            "Off leaves every packet to the kernel path, with the BPF programs in place",
        )
        .ours(),
        Flag::one(
            "flow-validity",
            "SECONDS",
            "3",
            "How long a flow takes the BPF fast path before the kernel path has to let it through again",
        )
        .ours(),
        Flag::one("max-flows", "COUNT", "", "Flows that the fast path has room for; by default a share of the memory")
            .ours(),
        Flag::one(
            "max-peers",
            "COUNT",
            "",
            "Subnets of peers that the fast path has room for; by default as many as the network has",
        )
        .ours(),
        Flag::one("max-pods", "COUNT", "", "Pods that the fast path has room for; by default a share of the memory")
            .ours(),
        Flag::one(
            "pod-flow-rate",
            "COUNT",
            "4096",
            "New flows that one pod may bring onto the fast path in a second; more stay on the kernel path",
        )
        .ours(),
        Flag::choice(
            "tx-checksum",
            &["auto", "on", "off"],
            "Transmit checksum offload of the VXLAN device; off helps where network cards send wrong inner checksums",
        ),
        Flag::choice(
            "peer-guard",
            &["drop", "count", "off"],
            "What to do with tunnel packets that no peer may have sent: a stranger's, or from outside the peer's subnet",
        ),
        Flag::switch(
            "ip-blackhole-route",
            "false",
            "Keep a blackhole route for our own subnet, so that packets to absent pods do not leave the node",
        ),
    ],
};

const FILTER_GROUP: Group = Group {
    heading: "Packet filter",
    flags: &[
        Flag::switch("ip-masq", "false", "Masquerade what pods send out of the overlay"),
        Flag::switch("ip-masq-v4", "", "The same for IPv4 only; follows --ip-masq").ours(),
        Flag::switch("ip-masq-v6", "", "The same for IPv6 only; follows --ip-masq").ours(),
        Flag::many(
            "ip-masq-exclude",
            "CIDR",
            "Destinations that shall see the pod's own address; repeatable, or separated by commas",
        )
        .ours(),
        Flag::switch(
            "ip-masq-fully-random-disable",
            "false",
            "Let masqueraded connections keep their source port where possible",
        ),
        Flag::switch("iptables-forward-rules", "true", "Accept forwarded packets from and to the overlay"),
        Flag::choice(
            "packet-filter",
            &["auto", "nftables", "iptables"],
            "Which tool holds the rules; auto looks at what the host has and uses",
        ),
        Flag::one(
            "iptables-resync",
            "SECONDS",
            "5",
            "How often rules are compared where the kernel sends no notice of a change",
        ),
    ],
};

const PATHS_GROUP: Group = Group {
    heading: "Files",
    flags: &[
        Flag::one("run-dir", "DIR", "/run/flannel", "Lock and status socket; one daemon per directory").ours(),
        Flag::one("subnet-file", "PATH", "RUN_DIR/subnet.env", "What container runtimes read our subnet from"),
        Flag::one("state-dir", "DIR", "/var/lib/flannel", "Identity of this node; should survive a reboot").ours(),
        Flag::one("bpf-dir", "DIR", "/sys/fs/bpf/flannel", "Pinned BPF objects").ours(),
    ],
};

const HEALTH_GROUP: Group = Group {
    heading: "Health and logs",
    flags: &[
        Flag::one("healthz-ip", "IP", "0.0.0.0", "Where to serve /healthz, /readyz and /metrics"),
        Flag::one("healthz-port", "PORT", "0", "Its port; 0 serves nothing"),
        Flag::choice("log-format", &["human", "json"], "Form of the log on standard error"),
        Flag::one(
            "v",
            "LEVEL",
            "0",
            "Verbosity: 4 and above logs debugging, 6 and above everything; RUST_LOG beats it",
        ),
        Flag::one("vmodule", "PATTERNS", "", "Accepted for flannel's sake, unused; RUST_LOG does it").ignored(),
        Flag::one("log_backtrace_at", "FILE:LINE", "", "Accepted for flannel's sake, unused").ignored(),
    ],
};

const MULTI: &str = "multi-network mode was removed in flannel v0.8; run one daemon per network, each with its own --etcd-prefix, --run-dir and VNI";
const REMOTE: &str =
    "client/server mode was removed in flannel v0.8; `flannel-ctl store` or etcd takes the server's place";

/// Options of old flanneld versions.
pub const REMOVED: &[Removed] = &[
    Removed { name: "etcd-endpoint", why: "renamed by flannel v0.2; use --etcd-endpoints" },
    Removed { name: "networks", why: MULTI },
    Removed { name: "subnet-dir", why: MULTI },
    Removed { name: "watch-networks", why: MULTI },
    Removed { name: "listen", why: REMOTE },
    Removed { name: "remote", why: REMOTE },
    Removed { name: "remote-cafile", why: REMOTE },
    Removed { name: "remote-certfile", why: REMOTE },
    Removed { name: "remote-keyfile", why: REMOTE },
];
