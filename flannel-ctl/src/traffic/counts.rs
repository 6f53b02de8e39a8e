//! Counters, and the share of the pods' tunnel packets that took the fast path.

use flannel_common::Counter;

/// A direction, as pods see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Sent,
    Received,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::Sent, Self::Received];

    /// Stable name for output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }

    const fn fast(self) -> Counter {
        match self {
            Self::Sent => Counter::EgressFast,
            Self::Received => Counter::IngressFast,
        }
    }

    const fn disabled(self) -> Counter {
        match self {
            Self::Sent => Counter::EgressDisabled,
            Self::Received => Counter::IngressDisabled,
        }
    }
}

/// All counters at one moment, or what was counted between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the programs decided, by [`Counter::slot`].
    decided: Vec<u64>,
    /// Packets of pods that the kernel path carried through the tunnel, by [`Counter::tunnelled_slot`].
    tunnelled: Vec<u64>,
}

/// How the pods' packets went through the tunnel.
///
/// Packets that were never for the tunnel (to the internet, to a pod of this node) are in neither number, nor is what the
/// node itself sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub fast: u64,
    pub kernel: u64,
    /// Why most of the latter did not take the fast path.
    pub leading: Option<(Counter, u64)>,
}

impl Counts {
    /// As the maps have them.
    pub fn new(decided: Vec<u64>, tunnelled: Vec<u64>) -> Self {
        Self { decided, tunnelled }
    }

    /// What the programs decided.
    pub fn decided(&self, counter: Counter) -> u64 {
        at(&self.decided, counter.slot())
    }

    /// Packets of pods that the kernel path carried through the tunnel for this reason.
    pub fn tunnelled(&self, way: Way, why: Counter) -> u64 {
        at(&self.tunnelled, why.tunnelled_slot(way == Way::Received))
    }

    /// What came since `earlier`. Maps made anew meanwhile count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |now: &[u64], then: &[u64]| {
            let anew = now.iter().zip(then).any(|(now, then)| now < then);
            let then = |slot| if anew { 0 } else { then.get(slot).copied().unwrap_or(0) };
            now.iter().enumerate().map(|(slot, now)| now - then(slot)).collect()
        };
        Self { decided: since(&self.decided, &earlier.decided), tunnelled: since(&self.tunnelled, &earlier.tunnelled) }
    }

    /// The pods' packets through the tunnel. While the fast path is off it does not look at where packets go: all that it
    /// saw counts then.
    pub fn share(&self, way: Way) -> Share {
        let reasons = Counter::ALL.map(|counter| (counter, self.tunnelled(way, counter)));
        let fast = self.decided(way.fast());
        let kernel = reasons.iter().map(|(_, packets)| packets).sum();
        let most = reasons.into_iter().filter(|(_, packets)| *packets > 0).max_by_key(|(_, packets)| *packets);
        let off = self.decided(way.disabled());
        if fast + kernel == 0 && off > 0 {
            return Share { fast, kernel: off, leading: Some((way.disabled(), off)) };
        }
        Share { fast, kernel, leading: most }
    }
}

impl Share {
    /// Of a hundred packets, how many were fast; `None` if there were none.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn percent(&self) -> Option<f64> {
        let all = self.fast + self.kernel;
        (all > 0).then(|| self.fast as f64 * 100.0 / all as f64)
    }
}

fn at(counts: &[u64], slot: u32) -> u64 {
    counts.get(slot as usize).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(decided: &[(Counter, u64)], tunnelled: &[(Way, Counter, u64)]) -> Counts {
        let mut counts = Counts::new(vec![0; Counter::COUNT as usize], vec![0; Counter::TUNNELLED as usize]);
        for (counter, packets) in decided {
            counts.decided[counter.slot() as usize] = *packets;
        }
        for (way, counter, packets) in tunnelled {
            counts.tunnelled[counter.tunnelled_slot(*way == Way::Received) as usize] = *packets;
        }
        counts
    }

    #[test]
    fn only_tunnel_packets_of_pods_are_in_the_share() {
        // Most of what the program could not know went to the internet.
        let counts = counts(
            &[(Counter::EgressFast, 90), (Counter::EgressUnknown, 1000)],
            &[
                (Way::Sent, Counter::EgressExpired, 7),
                (Way::Sent, Counter::EgressControl, 3),
                (Way::Received, Counter::IngressOuter, 5),
            ],
        );
        let sent = counts.share(Way::Sent);
        assert_eq!(sent, Share { fast: 90, kernel: 10, leading: Some((Counter::EgressExpired, 7)) });
        assert_eq!(sent.percent(), Some(90.0));
        let received = counts.share(Way::Received);
        assert_eq!(received.percent(), Some(0.0));
        assert_eq!(received.leading, Some((Counter::IngressOuter, 5)));
    }

    #[test]
    fn no_traffic_has_no_share_and_a_fast_path_that_is_off_has_none_of_it() {
        assert_eq!(Counts::default().share(Way::Sent), Share::default());
        assert_eq!(Share::default().percent(), None);
        let off = counts(&[(Counter::EgressDisabled, 12)], &[]).share(Way::Sent);
        assert_eq!((off.percent(), off.leading), (Some(0.0), Some((Counter::EgressDisabled, 12))));
    }

    #[test]
    fn differences_start_anew_with_the_maps() {
        let earlier = counts(&[(Counter::EgressFast, 90)], &[(Way::Sent, Counter::EgressExpired, 7)]);
        let later = counts(&[(Counter::EgressFast, 95)], &[(Way::Sent, Counter::EgressExpired, 8)]);
        let since = later.since(&earlier);
        assert_eq!(since.share(Way::Sent), Share { fast: 5, kernel: 1, leading: Some((Counter::EgressExpired, 1)) });
        assert_eq!(earlier.since(&later), earlier);
        assert_eq!(later.since(&Counts::default()), later);
    }
}
