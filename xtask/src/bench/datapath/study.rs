//! What is asked: the same bench answers two questions.

use super::{
    bars::{self, Verdict},
    bars_userspace,
    mode::{Metric, Mode, Wire},
    sample::Samples,
};

/// A question, with its modes, bars and document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Study {
    /// How fast is the fast path?
    #[default]
    Datapath,
    /// How good is the fallback?
    Userspace,
}

impl Study {
    pub(super) fn modes(self) -> &'static [Mode] {
        match self {
            Self::Datapath => &Mode::ALL,
            Self::Userspace => &[Mode::Vxlan, Mode::Userspace, Mode::UserspacePlain, Mode::Blocking],
        }
    }

    pub(super) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Datapath => &Metric::ALL,
            Self::Userspace => &[
                Metric::Stream1,
                Metric::Stream4,
                Metric::TcpRr1,
                Metric::TcpRr32,
                Metric::UdpRr1,
                Metric::Udp64,
                Metric::Udp1400,
            ],
        }
    }

    /// Of the files in `docs/benchmarks`.
    pub(super) fn document(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Userspace => "userspace",
        }
    }

    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Datapath => include_str!("method.md"),
            Self::Userspace => include_str!("method_userspace.md"),
        }
    }

    /// Whose bars the tables have.
    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Datapath => "the fast path",
            Self::Userspace => "the userspace datapath",
        }
    }

    /// Every bar of this wire.
    pub(super) fn judge(self, samples: Samples<'_>, wire: Wire) -> Vec<Verdict> {
        match self {
            Self::Datapath => bars::judge(samples, wire),
            Self::Userspace => bars_userspace::judge(samples, wire),
        }
    }

    /// Whether some bar looks at this load in this mode.
    pub(super) fn compares(self, metric: Metric, mode: Mode) -> bool {
        match self {
            Self::Datapath => bars::compare(metric, mode),
            Self::Userspace => bars_userspace::compare(metric, mode),
        }
    }
}
