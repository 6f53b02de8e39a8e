//! PURE: is what stands under our key still ours, and what follows if not.

use super::owned::{Owned, merged, take_question};
use crate::{
    alloc::{self, Owner},
    model::{LeaseRecord, LeaseValue},
    source::contested::name,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As we left it, and as it should be.
    Fine,
    /// Ours and as it should be, though not by the write that we remember.
    Adopt,
    /// Ours, but not what we want to say now.
    Rewrite,
    /// Nothing is there.
    Recreate,
    /// Ours, with a question in it whether we live.
    Answer(String),
    /// Somebody wrote over it who has no right to it.
    Regain(String),
    /// Another node leased it after it had expired or was released.
    Lost(String),
    /// We took it from a holder that gave no answer, and it answers now.
    Yield(String),
}

/// `now`: what stands under the key. `attempted`: a value whose write was never answered.
pub(super) fn judge(owned: &Owned, now: Option<&LeaseRecord>, us: &LeaseValue, attempted: Option<&[u8]>) -> Verdict {
    let Some(now) = now else { return Verdict::Recreate };
    let mut stored = alloc::parse(&now.value);
    let question = stored.as_mut().and_then(take_question);
    let as_wished = stored.as_ref().is_some_and(|stored| *stored == merged(us, Some(stored)));
    let same_write = now.modified == owned.record.modified;
    // What we said last counts as ours too: the fields that others added since are welcome.
    let by_us = same_write
        || attempted == Some(now.value.as_slice())
        || stored.as_ref().is_some_and(|stored| *stored == merged(&owned.value, Some(stored)));
    let who = || match &stored {
        None if now.value.is_empty() => "somebody, with an empty value,".into(),
        Some(stored) => name(stored),
        None => "somebody, with a value that is no lease,".into(),
    };
    let displaced = |stored: &LeaseValue| {
        let who = |value: &LeaseValue| (value.node_id.clone(), value.public_ip, value.public_ipv6);
        owned.displaced.as_ref().is_some_and(|displaced| who(displaced) == who(stored))
    };
    match alloc::owner(&now.value, us) {
        Owner::Us if as_wished || by_us && question.is_some() => match question {
            Some(asker) => Verdict::Answer(format!(
                "{asker} starts with our node id or our address and was told that we live; is the id file copied?"
            )),
            None if same_write => Verdict::Fine,
            None => Verdict::Adopt,
        },
        _ if by_us => Verdict::Rewrite,
        _ if stored.as_ref().is_some_and(displaced) => {
            Verdict::Yield(format!("{} held it before us, gave no answer when asked, and lives", who()))
        }
        Owner::Us => Verdict::Regain(format!("{} wrote over it with our node id; is the id file copied?", who())),
        Owner::OurAddress => {
            Verdict::Regain(format!("{} wrote over it; does flannel's own daemon still run here?", who()))
        }
        Owner::Unreadable => Verdict::Regain(format!("{} wrote over it", who())),
        // The key was never free: this is an overwrite, not a lease.
        Owner::Rival | Owner::Other | Owner::Nobody if now.created == owned.record.created => {
            Verdict::Regain(format!("{} wrote over it", who()))
        }
        Owner::Nobody => Verdict::Lost("an operator reserved it".into()),
        Owner::Rival | Owner::Other => Verdict::Lost(format!("{} leased it after ours was gone", who())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subnet;

    fn value(text: &str) -> LeaseValue {
        serde_json::from_str(text).unwrap()
    }

    fn record(text: &str, created: i64, modified: i64) -> LeaseRecord {
        LeaseRecord { key: "10.5.1.0-24".into(), value: text.into(), created, modified, lease_id: 1 }
    }

    const OURS: &str = r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"a"}"#;

    #[expect(clippy::needless_pass_by_value, reason = "shorter to call")]
    fn verdict(now: Option<LeaseRecord>, us: &str) -> Verdict {
        let subnet = Subnet::from_key("10.5.1.0-24").unwrap();
        let owned = Owned { subnet, value: value(OURS), record: record(OURS, 5, 6), displaced: None };
        judge(&owned, now.as_ref(), &value(us), None)
    }

    #[test]
    fn our_own_writes() {
        assert_eq!(verdict(None, OURS), Verdict::Recreate);
        assert_eq!(verdict(Some(record(OURS, 5, 6)), OURS), Verdict::Fine);
        let moved = r#"{"PublicIP":"10.0.0.7","PublicIPv6":null,"NodeID":"a"}"#;
        assert_eq!(verdict(Some(record(OURS, 5, 6)), moved), Verdict::Rewrite);
        assert_eq!(verdict(Some(record(moved, 5, 8)), moved), Verdict::Adopt);
        let extra = r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"a","Rack":7}"#;
        assert_eq!(verdict(Some(record(extra, 5, 8)), OURS), Verdict::Adopt, "a field of others is no quarrel");
        assert_eq!(verdict(Some(record(extra, 5, 8)), moved), Verdict::Rewrite, "not even while we change ours");
    }

    #[test]
    fn an_overwrite_is_regained_and_a_new_lease_is_respected() {
        let other = r#"{"PublicIP":"10.0.0.9","PublicIPv6":null,"NodeID":"b","NodeName":"nine"}"#;
        let flannel = r#"{"PublicIP":"10.0.0.9","PublicIPv6":null}"#;
        for text in [other, flannel, r#"{"PublicIP":"10.0.0.1","NodeID":"b"}"#, r#"{"PublicIP":"0.0.0.0"}"#] {
            assert!(matches!(verdict(Some(record(text, 5, 8)), OURS), Verdict::Regain(_)), "{text}");
            assert!(matches!(verdict(Some(record(text, 8, 8)), OURS), Verdict::Lost(_)), "{text}");
        }
        assert!(matches!(verdict(Some(record("", 5, 8)), OURS), Verdict::Regain(_)));
        assert!(matches!(verdict(Some(record("", 8, 8)), OURS), Verdict::Lost(_)), "reserved for nobody");
        for text in ["garbage", r#"{"PublicIP":"10.0.0.1"}"#, r#"{"PublicIP":"10.0.0.5","NodeID":"a"}"#] {
            assert!(matches!(verdict(Some(record(text, 8, 8)), OURS), Verdict::Regain(_)), "{text}");
        }
        let Verdict::Lost(reason) = verdict(Some(record(other, 8, 8)), OURS) else { panic!("not lost") };
        assert_eq!(reason, "nine (10.0.0.9) leased it after ours was gone");
    }

    #[test]
    fn a_write_that_was_never_answered_is_no_conflict() {
        let subnet = Subnet::from_key("10.5.1.0-24").unwrap();
        let owned = Owned { subnet, value: value(OURS), record: record(OURS, 5, 6), displaced: None };
        let attempted = r#"{"PublicIP":"10.0.0.5","PublicIPv6":null,"NodeID":"a"}"#;
        let now = record(attempted, 5, 8);
        assert_eq!(judge(&owned, Some(&now), &value(OURS), Some(attempted.as_bytes())), Verdict::Rewrite);
    }

    #[test]
    fn a_question_is_answered_as_long_as_the_rest_is_ours() {
        let asked = |value: &str| value.replace('}', r#","Challenge":"two (10.0.0.2), 07\u001b"}"#);
        let Verdict::Answer(reason) = verdict(Some(record(&asked(OURS), 5, 8)), OURS) else { panic!("no answer") };
        assert!(reason.starts_with("two (10.0.0.2), 07\\u{1b} starts with our node id"), "{reason}");
        let moved = r#"{"PublicIP":"10.0.0.7","PublicIPv6":null,"NodeID":"a"}"#;
        assert!(matches!(verdict(Some(record(&asked(OURS), 5, 8)), moved), Verdict::Answer(_)), "while we move, too");
        assert!(matches!(verdict(Some(record(&asked(moved), 5, 8)), OURS), Verdict::Regain(_)));
        let other = r#"{"PublicIP":"10.0.0.9","PublicIPv6":null,"NodeID":"b"}"#;
        assert!(matches!(verdict(Some(record(&asked(other), 8, 8)), OURS), Verdict::Lost(_)));
    }

    #[test]
    fn who_took_it_from_a_silent_holder_gives_it_back_when_that_speaks() {
        let subnet = Subnet::from_key("10.5.1.0-24").unwrap();
        let before = [
            r#"{"PublicIP":"10.0.0.7","PublicIPv6":null,"NodeID":"a"}"#,
            r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"NodeID":"b"}"#,
        ];
        for text in before {
            let displaced = Some(value(text));
            let owned = Owned { subnet, value: value(OURS), record: record(OURS, 5, 6), displaced };
            let now = |text: &str| judge(&owned, Some(&record(text, 5, 8)), &value(OURS), None);
            assert!(matches!(now(text), Verdict::Yield(_)), "{text}");
            assert!(matches!(now(r#"{"PublicIP":"10.0.0.8","PublicIPv6":null,"NodeID":"a"}"#), Verdict::Regain(_)));
            assert_eq!(now(OURS), Verdict::Adopt);
        }
    }
}
