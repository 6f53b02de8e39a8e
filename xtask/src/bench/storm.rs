//! Ten seconds of joins, changes and leaves, as fast as asked for.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etcd_client::{Txn, TxnOp};
use tokio::sync::Semaphore;
use xtask::lab::{Node, cpu_time};

use super::{
    leases::{Fake, Watch, Writer},
    notices::{NEIGHBOURS, Notices, ROUTES, What},
    samples::{Measure, millis},
};

const SECONDS: u32 = 10;
/// Nodes that come, change and leave; each is touched once in half a second at 1,000 a second.
const CROWD: usize = 500;
/// Changes per request: a store that syncs its file for each would be what is measured.
const PER_REQUEST: usize = 10;
/// Requests under way; keeps the order of two changes of one node.
const IN_FLIGHT: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put(Fake),
    Delete(Fake),
}

/// Change number `n`: round by round all of the crowd joins, changes, leaves.
fn step(first: usize, n: usize) -> Step {
    let (round, number) = (n / CROWD, first + n % CROWD);
    let fake = |version| Fake { number, version };
    match round % 3 {
        0 => Step::Put(fake(10)),
        1 => Step::Put(fake(11)),
        _ => Step::Delete(fake(11)),
    }
}

pub(super) fn run(writer: &Writer, watch: &Watch, node: &Node, first: usize, rate: u32) -> Result<Vec<Measure>> {
    let pid = node.pid().context("the daemon is not running")?;
    let notices = Notices::start(node.netns(), ROUTES | NEIGHBOURS)?;
    watch.drain();
    let before = cpu_time(pid)?;
    let total = usize::try_from(rate * SECONDS)?;
    let begun = Instant::now();
    send(writer, first, total, rate)?;
    let sent = begun.elapsed();
    let last = match step(first, total - 1) {
        Step::Put(fake) => What::Neighbour(fake.mac()),
        Step::Delete(fake) => What::RouteGone(fake.base()),
    };
    // The same thing may have happened in an earlier round: what counts is the last time.
    let mut done = notices.all([last].into(), Duration::from_mins(1))?.at;
    while let Ok(again) = notices.all([last].into(), Duration::from_secs(1)) {
        done = again.at;
    }
    let used = cpu_time(pid)? - before;
    thread::sleep(Duration::from_millis(100));
    let (told, last_told) = watch.drain();
    let lag = done.saturating_duration_since(last_told.unwrap_or(begun));
    let rate = f64::from(u32::try_from(total)?) / sent.as_secs_f64();
    Ok(vec![
        Measure::one(format!("storm: changes a second that the store took ({told} events)"), "1/s", rate),
        Measure::one("storm: last event to last of it in kernel", "ms", millis(lag)),
        Measure::one(format!("storm: CPU of {SECONDS} s"), "ms", millis(used)),
    ])
}

fn send(writer: &Writer, first: usize, total: usize, rate: u32) -> Result<()> {
    let (runtime, client, options) = writer.parts();
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    runtime.block_on(async {
        let mut requests = Vec::with_capacity(total / PER_REQUEST + 1);
        let begun = tokio::time::Instant::now();
        let gap = Duration::from_secs(1) / rate;
        for n in (0..total).step_by(PER_REQUEST) {
            tokio::time::sleep_until(begun + gap * u32::try_from(n)?).await;
            let permit = Arc::clone(&room).acquire_owned().await?;
            let mut client = client.clone();
            let ops: Vec<TxnOp> = (n..total.min(n + PER_REQUEST))
                .map(|n| match step(first, n) {
                    Step::Put(fake) => {
                        let (key, value) = fake.entry();
                        TxnOp::put(key, value, Some(options.clone()))
                    }
                    Step::Delete(fake) => TxnOp::delete(fake.key(), None),
                })
                .collect();
            requests.push(tokio::spawn(async move {
                let answer = client.txn(Txn::new().and_then(ops)).await.map(drop);
                drop(permit);
                answer
            }));
        }
        for request in requests {
            request.await??;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_joins_changes_and_leaves() {
        let steps: Vec<_> = (0..4).map(|round| step(7, round * CROWD + 1)).collect();
        let fake = |version| Fake { number: 8, version };
        assert_eq!(steps, [Step::Put(fake(10)), Step::Put(fake(11)), Step::Delete(fake(11)), Step::Put(fake(10))]);
    }
}
