//! Why the daemon could not start, or had to end.

use std::io;

use crate::{
    alloc::Exhausted,
    config::{ConfigErrors, uplink::NoUplink},
    kernel::KernelError,
    serve::{http::BindError, socket::SocketError},
    source::Contested,
    state::{FileError, LockError, NodeIdError},
};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    NodeId(#[from] NodeIdError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Uplink(#[from] NoUplink),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error(transparent)]
    Contested(#[from] Contested),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Health(#[from] BindError),
    #[error("{0}; correct the annotation, or remove it")]
    Annotation(String),
    #[error(
        "the network config enables {family}, but the uplink {interface} has no {family} address: add one, choose another with --iface, or turn {family} off in the network config"
    )]
    NoAddress { family: crate::model::Family, interface: String },
    #[error("on this node, with the uplink {interface}, {problems}")]
    Network { interface: String, problems: ConfigErrors },
    #[error("cannot start the asynchronous runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    #[error("cannot start a thread: {0} (usually a limit on threads: see `ulimit -u` and the unit's TasksMax)")]
    Thread(#[source] io::Error),
    #[error("the {0} ended unexpectedly; the datapath stays as it is, and a restart picks it up")]
    Died(&'static str),
}

impl StartError {
    /// Something the operator wrote cannot work, wherever it was written: exit code 2.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Annotation(_) | Self::NoAddress { .. } | Self::Network { .. } | Self::Uplink(_))
    }
}
