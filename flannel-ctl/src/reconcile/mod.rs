//! The loop that keeps kernel state true: see `docs/architecture.md`, "The one loop".

pub mod retries;
pub mod world;

pub use retries::{Failure, Retries};
pub use world::World;
