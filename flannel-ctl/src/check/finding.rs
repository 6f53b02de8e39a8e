//! PURE: one answer of `check`.

use serde::Serialize;

/// How one look came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// `run` works, but not everything may.
    Warn,
    /// `run` would not work.
    Fail,
}

/// What was looked at, and what came out. Field names are for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub result: Outcome,
    pub detail: String,
    /// What to do about it; empty if there is nothing to do.
    pub cure: String,
}

impl Finding {
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, detail, "")
    }

    pub fn warn(name: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(name, Outcome::Warn, detail, cure)
    }

    pub fn fail(name: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(name, Outcome::Fail, detail, cure)
    }

    fn new(name: &'static str, result: Outcome, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name, result, detail: detail.into(), cure: cure.into() }
    }
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// `run` would work.
pub fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.result < Outcome::Fail)
}
