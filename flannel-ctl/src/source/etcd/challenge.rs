//! Asking whether the holder of a lease lives: a field of ours is written into the value, and a
//! living holder, which follows its own key, takes it out again at once. Other nodes and flannel's
//! daemon pass over fields that they do not know, so nothing else happens.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    EtcdError, Session,
    error::Kind,
    owned::{QUESTION, encode},
    session::Write,
};
use crate::{
    alloc,
    model::{LeaseRecord, LeaseValue},
    source::contested::name,
};

/// How long a living holder may take. One that is cut off from the store for longer counts as
/// gone, and has its subnet back when it answers later: see `judge`.
const PATIENCE: Duration = Duration::from_secs(3);
/// A question of another node is left alone for longer than that node waits.
const THEIRS: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(100);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The holder took the question out.
    Alive,
    /// Nobody did; this is the mod revision of the question, which still stands.
    Silent(i64),
    /// Something else became of the lease: list again.
    Changed,
}

/// Asks the holder of `record`, on behalf of `us`.
pub(super) async fn ask(session: &Session, record: &LeaseRecord, us: &LeaseValue) -> Result<Answer, EtcdError> {
    let Some(held) = alloc::parse(&record.value) else { return Ok(Answer::Changed) };
    if held.other.contains_key(QUESTION) && changed(session, record.modified, &record.key, THEIRS).await?.is_some() {
        return Ok(Answer::Changed);
    }
    let mut question = held.clone();
    let who = format!("{}, {:016x}", name(us), rand::random::<u64>());
    question.other.insert(QUESTION.into(), Value::String(who));
    let written = session.write(&record.key, record.modified, &encode(&question), record.lease_id).await;
    let asked = match written {
        Ok(Write::Done(revision)) => revision,
        Ok(Write::Changed(_)) => return Ok(Answer::Changed),
        // It expired between the list and the question.
        Err(error) if error.kind == Kind::LeaseGone => return Ok(Answer::Changed),
        Err(error) => return Err(error),
    };
    let answer = match changed(session, asked, &record.key, PATIENCE).await? {
        None => Answer::Silent(asked),
        Some(now) => {
            let now = now.and_then(|now| alloc::parse(&now.value));
            let answered = now.is_some_and(|now| now.node_id == held.node_id && !now.other.contains_key(QUESTION));
            if answered { Answer::Alive } else { Answer::Changed }
        }
    };
    Ok(answer)
}

/// Waits for the key to be something else than at this revision; `None`: it did not change in time.
async fn changed(
    session: &Session,
    revision: i64,
    key: &str,
    patience: Duration,
) -> Result<Option<Option<LeaseRecord>>, EtcdError> {
    let deadline = Instant::now() + patience;
    loop {
        sleep(LOOK).await;
        let now = session.get(key).await?;
        if now.as_ref().is_none_or(|now| now.modified != revision) {
            return Ok(Some(now));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
}
