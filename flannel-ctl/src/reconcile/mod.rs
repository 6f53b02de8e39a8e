//! The loop that keeps kernel state true: see `docs/architecture.md`, "The one loop".

pub mod agent;
mod burst;
mod hits;
pub mod host;
pub mod inbox;
mod own_report;
mod reporting;
pub mod retries;
mod vital;
pub mod world;

pub use agent::{Agent, Ear, Start, Wake};
pub use host::{Host, Surroundings};
pub use inbox::Inbox;
pub use retries::{Failure, Retries};
pub use world::World;
