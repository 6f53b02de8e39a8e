//! PURE: whether this node's own part is far enough for containers to count on it.

use std::time::Duration;

use super::Retries;
use crate::{
    model::{Family, Key, Place},
    plan::{Facts, desire::desire_own},
};

/// How long IPv6 may fail before a node of both families is given to its containers without.
///
/// A container gets its addresses once, when it is made. For a while it is better to wait and
/// give it two that work; but a node that starts no containers at all, because of the half that
/// fewer of them use, is the larger outage.
pub(super) const GRACE: Duration = Duration::from_mins(1);

/// What to tell the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// IPv6 has been failing for too long to wait for it.
    WithoutV6,
    /// Not yet; at that time look again even if nothing happens.
    Wait(Option<Duration>),
}

/// Judges our own part. What is neither in place nor failing has not been tried yet: it is waited
/// for. A knob that cannot be turned (a read-only /proc/sys) is
/// told of but keeps nobody from starting, nor does anything that belongs to a peer.
pub(super) fn judge(
    facts: &Facts,
    in_place: impl Fn(&Key) -> bool,
    retries: &Retries,
    now: Duration,
    grace: Duration,
) -> Readiness {
    let mut late: Option<Duration> = None;
    for key in desire_own(facts).keys() {
        let failure = retries.get(key);
        match (key, failure) {
            // Without these the kernel path carries the packets, all the same.
            (Key::Setting(..) | Key::LiberalConntrack | Key::FastPath | Key::FastPeer(_) | Key::Attachment(_), _) => {}
            (_, None) if in_place(key) => {}
            (_, Some(failure)) if facts.network.v4.is_some() && family(key) == Some(Family::V6) => {
                let until = failure.since + grace;
                late = Some(late.map_or(until, |late| late.min(until)));
            }
            _ => return Readiness::Wait(None),
        }
    }
    match late {
        None => Readiness::Ready,
        Some(until) if until <= now => Readiness::WithoutV6,
        Some(until) => Readiness::Wait(Some(until)),
    }
}

/// The one that an object of ours serves; `None`: both.
fn family(key: &Key) -> Option<Family> {
    match key {
        Key::Device(family)
        | Key::Setting(family, _)
        | Key::Address(family, _)
        | Key::Fdb(family, _)
        | Key::Engine(family)
        | Key::Attachment(Place::Vtep(family)) => Some(*family),
        Key::Route(net) | Key::Forward(net) | Key::FastPeer(net) => Some(Family::of_net(net)),
        Key::Guard(outer, _) | Key::Neighbour(outer) => Some(Family::of(outer)),
        Key::Nexthop(_) => Some(Family::V4),
        Key::Filter | Key::LiberalConntrack | Key::FastPath | Key::Attachment(Place::Uplink(_) | Place::Pod(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::KernelError, model::Setting, plan::fixtures};

    const NOW: Duration = Duration::from_secs(1000);

    fn verdict(dual: bool, failing: &[(Key, u64)]) -> Readiness {
        let mut retries = Retries::default();
        for (key, ago) in failing {
            let error = KernelError { attempt: "add".into(), answer: "no".into(), hint: None, errno: 1 };
            retries.failed(*key, error, NOW - Duration::from_secs(*ago), 0.0);
        }
        judge(&fixtures::facts(dual), |_| true, &retries, NOW, GRACE)
    }

    #[test]
    fn the_ipv6_half_is_waited_for_but_not_for_ever() {
        let v6 = Key::Device(Family::V6);
        assert_eq!(verdict(true, &[]), Readiness::Ready);
        assert_eq!(verdict(true, &[(v6, 10)]), Readiness::Wait(Some(NOW + Duration::from_secs(50))));
        assert_eq!(verdict(true, &[(v6, 60)]), Readiness::WithoutV6);
        let address = Key::Address(Family::V6, "fc00:0:0:1::/128".parse().unwrap());
        assert_eq!(verdict(true, &[(address, 70), (v6, 10)]), Readiness::WithoutV6);
    }

    #[test]
    fn the_ipv4_half_and_the_rules_are_waited_for_for_ever() {
        for key in [Key::Device(Family::V4), Key::Filter] {
            assert_eq!(verdict(true, &[(key, 900)]), Readiness::Wait(None));
            assert_eq!(verdict(true, &[(key, 900), (Key::Device(Family::V6), 900)]), Readiness::Wait(None));
            assert_eq!(verdict(false, &[(key, 900)]), Readiness::Wait(None));
        }
    }

    #[test]
    fn what_has_only_ipv6_waits_for_it() {
        let mut facts = fixtures::facts(true);
        facts.network.v4 = None;
        facts.subnet = crate::model::Subnet::new(None, facts.subnet.v6()).unwrap();
        let mut retries = Retries::default();
        let error = KernelError { attempt: "add".into(), answer: "no".into(), hint: None, errno: 1 };
        retries.failed(Key::Device(Family::V6), error, Duration::ZERO, 0.0);
        assert_eq!(judge(&facts, |_| true, &retries, NOW, GRACE), Readiness::Wait(None));
    }

    #[test]
    fn what_has_not_been_tried_yet_is_waited_for() {
        // Rules with a guard are put once all peers are known.
        let tried = |key: &Key| !matches!(key, Key::Filter | Key::Setting(..));
        let judged = judge(&fixtures::facts(false), tried, &Retries::default(), NOW, GRACE);
        assert_eq!(judged, Readiness::Wait(None));
    }

    #[test]
    fn peers_and_knobs_hold_up_nobody() {
        let peer = Key::Route("10.244.2.0/24".parse().unwrap());
        let knob = Key::Setting(Family::V4, Setting::AcceptRa);
        assert_eq!(verdict(true, &[(peer, 900), (knob, 900)]), Readiness::Ready);
    }
}
