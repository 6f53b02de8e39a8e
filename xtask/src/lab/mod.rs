//! A cluster out of network namespaces.

mod netns;
mod precondition;
pub mod wait;

pub use netns::{Netns, run, settled};
pub use precondition::{missing_root, skip_unless};
