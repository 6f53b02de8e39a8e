//! PURE: the words of the field as types. Nothing here touches the world.

pub mod backend;
pub mod family;
pub mod fast_path;
pub mod filter;
pub mod lease;
pub mod network;
pub mod object;
pub mod peer;
pub mod subnet;
pub mod uplink;
pub mod userspace;

pub use backend::{Backend, TxChecksum, VxlanConfig};
pub use family::Family;
pub use fast_path::{FastFamily, FastPathPolicy, Place, PodLink};
pub use filter::{FilterPolicy, GuardPolicy, Masquerade};
pub use flannel_common::Mac;
pub use lease::{BackendData, LeaseRecord, LeaseValue};
pub use network::{AddressRange, Network};
pub use object::{Device, Key, Object, Op, Route, Setting, State, Via};
pub use peer::Peer;
pub use subnet::Subnet;
pub use uplink::{LinkAddress, LinkInfo, Uplink};
pub use userspace::{EnginePolicy, Forward, Kept, Tun, Wire};
