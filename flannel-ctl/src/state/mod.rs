//! What the daemon keeps in files: subnet.env, the lock, the node's identity.

pub mod atomic;
pub mod forwarding;
pub mod lock;
pub mod node_id;
pub mod refusal;
pub mod subnet_env;
pub mod vtep_mac;

pub use atomic::FileError;
pub use lock::{Lock, LockError};
pub use node_id::{NodeId, NodeIdError};
pub use subnet_env::SubnetEnv;
