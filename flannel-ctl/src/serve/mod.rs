//! What the running daemon tells the world: status socket, health, metrics, service manager.
//!
//! Everything here only reads. The reconcile loop publishes a [`Report`] after every pass and
//! answers a [`Question`] when it has a moment; nothing in here can hold it up.

pub mod handle;
pub mod heartbeat;
pub mod http;
mod limit;
pub mod metrics;
pub mod notify;
pub mod readiness;
pub mod report;
pub mod socket;

pub use handle::{AskError, Question, ReportHandle};
pub use heartbeat::Heartbeat;
pub use http::HealthServer;
pub use readiness::{Readiness, ReadyGuard};
pub use report::{PeerReport, Report};
pub use socket::StatusSocket;
