//! A cluster out of network namespaces: underlay, store, the real daemon on every node, pods.
//!
//! Nothing touches the machine's own network: all of it lives in namespaces named after the lab's prefix,
//! and goes away with the [`Cluster`], in a panic too. Needs root.
//!
//! ```no_run
//! use xtask::lab::{Cluster, Family, skip_unless};
//!
//! #[test]
//! fn a_killed_daemon_loses_no_packet() {
//!     if skip_unless(&["ip"]) {
//!         return; // said why; a failure under CI
//!     }
//!     let cluster = Cluster::builder("killed").nodes(2).dual_stack().start().unwrap();
//!     cluster.assert_whole();
//!
//!     let ping = cluster.ping(1, 2, Family::V4).unwrap(); // every millisecond
//!     cluster.node(1).kill().unwrap();
//!     ping.more(200).unwrap();
//!     cluster.node(1).start().unwrap();
//!     cluster.node(1).wait_ready().unwrap();
//!     ping.stop().assert_nothing_lost();
//! }
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | change a node's kernel state | `cluster.node(1).netns().ip("route flush ...")`, `.run("nft flush ruleset")` |
//! | the daemon's view | `cluster.node(1).status()`, `.log()`, `.http("/metrics")`, `.ctl(&["peers"])` |
//! | start it in another way | `cluster.node(1).start_with(&Launch { wrapper: strace, .. })` |
//! | partition | `cluster.underlay().unplug(1)`, `.replug(1)` |
//! | the store | `cluster.store().kill()`, `cluster.start_store()` |
//! | one more pod, much data | `SecondPod::create(cluster.node(1), 1430)`, `transfer(from, to, address, octets)` |
//! | the wire | `Capture::start(cluster.node(1).netns(), "eth0", "udp port 8472")` |
//! | etcd itself, several members, TLS, faults | `StoreKind::Given(endpoints)` and [`Etcd`] in `cluster.underlay().netns()` |
//! | cut a node off the store alone | `cluster.underlay().cut_off(1, 2379)`, `.heal()` |
//! | is the kernel what the leases say | `Picture::of_leases(..)` against `Picture::of_kernel(..)` |
//! | beyond the cluster | `OUTSIDE_V4`, `OUTSIDE_V6`: pods reach them only masqueraded |
//!
//! `FLANNEL_LAB_KEEP=1` keeps logs and state; `FLANNEL_CTL_BIN` is the binary to use.

mod binary;
mod capture;
mod cluster;
mod dump;
mod echo;
mod etcd;
mod etcd_cluster;
mod family;
mod flannel;
mod kube_api;
mod memory;
mod mesh;
mod netns;
mod node;
mod picture;
mod ping;
mod pod;
mod precondition;
mod process;
mod relay;
mod second_pod;
mod stopwatch;
mod store;
mod transfer;
mod underlay;
pub mod wait;

pub use binary::flannel_ctl;
pub use capture::{Capture, Packets};
pub use cluster::{Builder, Cluster, plain_vxlan, remove_leftovers};
pub use dump::Dump;
pub use etcd::{Etcd, EtcdOptions, Etcdctl, Lease, certificates};
pub use etcd_cluster::{EtcdCluster, stranger};
pub use family::Family;
pub use flannel::{Flannel, FlannelRules};
pub use kube_api::{KubeApi, KubeApiOptions, KubeBackup};
pub use memory::Memory;
pub use mesh::{Mesh, MeshPath};
pub use netns::{Netns, run};
pub use node::{Launch, Node};
pub use picture::Picture;
pub use ping::{Ping, PingReport};
pub use pod::{Pod, SubnetEnv};
pub use precondition::{given_program, missing_root, on_path, skip_unless};
pub use process::{Process, cpu_time};
pub use second_pod::SecondPod;
pub use stopwatch::Stopwatch;
pub use store::{Store, StoreKind};
pub use transfer::transfer;
pub use underlay::{GATEWAY_V4, GATEWAY_V6, OUTSIDE_V4, OUTSIDE_V6, Underlay};
