//! How long it takes; printed, not judged.

use std::time::Instant;

use super::*;

#[test]
fn ten_thousand_peers() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=10_000);
        let ops = diff(&wanted, &State::new(), true);
        let begun = Instant::now();
        let outcomes = lab.kernel.apply(&ops);
        let applied = begun.elapsed();
        assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
        let begun = Instant::now();
        let observed = lab.kernel.observe(&wanted).unwrap();
        let seen = begun.elapsed();
        similar_asserts(&observed, &wanted);
        let begun = Instant::now();
        let peers: Vec<_> = (1..=10_000).map(|n| public(Family::V4, n)).collect();
        assert!(lab.kernel.on_link(&peers).into_iter().all(|on| on.unwrap()));
        let asked = begun.elapsed();
        let deletes = diff(&State::new(), &wanted, true);
        let begun = Instant::now();
        assert!(lab.kernel.apply(&deletes).iter().all(Result::is_ok));
        eprintln!(
            "10,000 peers: {} ops in {applied:?}, observed in {seen:?}, 10,000 lookups in {asked:?}, removed in {:?}",
            ops.len(),
            begun.elapsed(),
        );
    });
}
