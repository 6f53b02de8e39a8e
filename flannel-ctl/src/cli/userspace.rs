//! How the userspace datapath fares, as `status` shows it.

use super::fast_path::short;
use crate::{serve::report::EngineReport, userspace::Counter};

/// The lines of `status`, by name.
pub(super) fn lines(engines: &[EngineReport]) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for engine in engines {
        let count = |name: &str| engine.counters.get(name).copied().unwrap_or(0);
        let on = if engine.offloads.is_empty() { "one packet a call".to_owned() } else { engine.offloads.join(" ") };
        let missing =
            if engine.missing.is_empty() { String::new() } else { format!(", not {}", engine.missing.join(" ")) };
        lines.push((format!("engine {}", engine.family), format!("{on}{missing}, queues {}", engine.queues)));
        let moved = |way: &str| {
            let calls = count(&format!("{way}_calls")).max(1);
            let packets = count(&format!("{way}_packets"));
            format!("{} packets, {} a call", short(packets), packets.div_ceil(calls))
        };
        lines.push((format!("{} sent", engine.family), moved("sent") + &dropped(engine, "sent_")));
        lines.push((format!("{} received", engine.family), moved("received") + &dropped(engine, "received_")));
    }
    lines
}

/// What is lost, by why.
fn dropped(engine: &EngineReport, way: &str) -> String {
    let losses: Vec<_> = Counter::ALL
        .into_iter()
        .filter(|counter| counter.description().contains(": dropped"))
        .filter_map(|counter| Some((counter.label().strip_prefix(way)?, *engine.counters.get(counter.label())?)))
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what} {}", short(count)))
        .collect();
    if losses.is_empty() { String::new() } else { format!("; dropped: {}", losses.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_was_dropped_is_told() {
        let engine = EngineReport {
            family: "IPv4".into(),
            offloads: vec!["tso".into(), "batches".into()],
            missing: vec!["uso".into()],
            queues: 2,
            counters: [
                ("sent_packets", 4500),
                ("sent_calls", 100),
                ("sent_too_big", 9),
                ("received_forged", 7),
                ("received_vni", 0),
            ]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
        };
        let lines: Vec<_> = lines(&[engine]).into_iter().map(|(name, text)| format!("{name}: {text}")).collect();
        assert_eq!(
            lines,
            [
                "engine IPv4: tso batches, not uso, queues 2",
                "IPv4 sent: 4.5k packets, 45 a call",
                "IPv4 received: 0 packets, 0 a call; dropped: forged 7",
            ]
        );
    }
}
