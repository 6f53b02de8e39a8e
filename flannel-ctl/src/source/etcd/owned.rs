//! PURE: the lease that is ours, and what its value says.

use crate::{
    model::{LeaseRecord, LeaseValue, Subnet},
    source::OwnLease,
};

/// The question's field; its text says who asks.
pub(super) const QUESTION: &str = "Challenge";

/// The lease that is ours, as we last read or wrote it.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) subnet: Subnet,
    pub(super) value: LeaseValue,
    pub(super) record: LeaseRecord,
    /// What the lease said before we took it from a holder that gave no answer.
    pub(super) displaced: Option<LeaseValue>,
}

impl Owned {
    pub(super) fn lease(&self) -> OwnLease {
        OwnLease { key: self.record.key.clone(), subnet: self.subnet, value: self.value.clone() }
    }
}

/// What we want to say, with the fields that others put into what is stored, but no question.
pub(super) fn merged(wish: &LeaseValue, stored: Option<&LeaseValue>) -> LeaseValue {
    let mut value = wish.clone();
    for (field, content) in stored.iter().flat_map(|stored| &stored.other).filter(|(field, _)| *field != QUESTION) {
        value.other.entry(field.clone()).or_insert_with(|| content.clone());
    }
    value
}

pub(super) fn encode(value: &LeaseValue) -> Vec<u8> {
    serde_json::to_vec(value).expect("a lease value is plain JSON")
}

/// Takes the question out of a value; who asks, if one is in it.
pub(super) fn take_question(value: &mut LeaseValue) -> Option<String> {
    let who = value.other.remove(QUESTION)?;
    let who = who.as_str().unwrap_or("somebody");
    Some(who.chars().take(120).flat_map(char::escape_debug).collect())
}
