//! lane: netns
//!
//! The userspace engine between network namespaces, without a daemon: against itself and against the kernel's VXLAN device.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

mod bursts;
mod forged;
mod life;
mod mesh;
mod pace;
mod packets;
mod site;
