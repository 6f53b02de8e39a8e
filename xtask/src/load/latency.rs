//! Many times, and the share of them that took no longer than so much.

use std::time::Duration;

/// Times in nanoseconds, up to four seconds each.
#[derive(Debug, Default)]
pub(super) struct Latencies(Vec<u32>);

impl Latencies {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Microseconds that these shares of all did not exceed.
    pub(super) fn micros<const N: usize>(mut self, shares: [f64; N]) -> [f64; N] {
        self.0.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list of samples"
        )]
        let rank = |share: f64| (share * self.0.len() as f64).ceil() as usize;
        shares.map(|share| {
            let at = rank(share).clamp(1, self.0.len().max(1)) - 1;
            self.0.get(at).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1000.0)
        })
    }
}

impl FromIterator<Self> for Latencies {
    fn from_iter<I: IntoIterator<Item = Self>>(many: I) -> Self {
        Self(many.into_iter().flat_map(|one| one.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let mut times = Latencies::default();
        (1..=1000).rev().for_each(|n| times.push(Duration::from_micros(n)));
        let more = Latencies::from_iter([times, Latencies::default()]);
        assert_eq!(more.count(), 1000);
        let [half, most, nearly] = more.micros([0.5, 0.99, 0.999]);
        assert!((half - 500.0).abs() < 1e-9 && (most - 990.0).abs() < 1e-9 && (nearly - 999.0).abs() < 1e-9);
        assert!(Latencies::default().micros([0.5])[0].is_nan());
    }
}
