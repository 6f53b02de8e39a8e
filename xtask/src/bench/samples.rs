//! Many measurements of one thing.

use std::time::Duration;

use serde::Serialize;

/// One store, one number of leases, guard on or off.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setup {
    pub(super) store: String,
    pub(super) leases: usize,
    pub(super) guard: String,
}

/// What was measured in it.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) setup: Setup,
    pub(super) measures: Vec<Measure>,
}

/// One thing that was measured, in one unit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measure {
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// What it must not exceed, where there is a bar for it.
    pub(super) bar: Option<f64>,
    pub(super) samples: Vec<f64>,
}

impl Measure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, bar: None, samples: Vec::new() }
    }

    pub(super) fn bar(mut self, bar: Option<f64>) -> Self {
        self.bar = bar;
        self
    }

    pub(super) fn one(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { samples: vec![value], ..Self::new(name, unit) }
    }

    pub(super) fn push(&mut self, value: f64) {
        self.samples.push(value);
    }

    /// The value that this share of the samples does not exceed.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list of samples"
        )]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
pub(super) fn megabytes(kb: u64) -> f64 {
    kb as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut measure = Measure::new("x", "ms");
        (1..=20).rev().for_each(|n| measure.push(f64::from(n)));
        let [median, worst, best] = [measure.median(), measure.quantile(0.99), measure.quantile(0.0)];
        assert!((median - 10.0).abs() < 1e-9 && (worst - 20.0).abs() < 1e-9 && (best - 1.0).abs() < 1e-9);
        assert!(Measure::new("none", "ms").median().is_nan());
    }
}
