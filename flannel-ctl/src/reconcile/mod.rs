//! The loop that keeps kernel state true: see `docs/architecture.md`, "The one loop".

pub mod agent;
pub mod host;
mod reporting;
pub mod retries;
pub mod world;

pub use agent::{Agent, Start, Wake};
pub use host::{Host, Surroundings};
pub use retries::{Failure, Retries};
pub use world::World;
