//! The sources of flannel-ctl that are fuzzed and measured apart from it.

/// The one type of the model that packets know.
#[path = "../../src/model"]
pub mod model {
    mod family;

    pub use family::Family;
}

#[path = "../../src/userspace/packet/mod.rs"]
pub mod packet;

#[path = "../exercise.rs"]
pub mod exercise;
