//! How the userspace datapath fares, as `status` shows it.

use super::fast_path::short;
use crate::serve::report::EngineReport;

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

/// Whatever is neither moved nor a call.
fn dropped(engine: &EngineReport, way: &str) -> String {
    let fine = ["packets", "bytes", "reads", "writes", "calls"];
    let losses: Vec<_> = engine
        .counters
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix(way)?, *count)))
        .filter(|(what, count)| *count > 0 && !fine.contains(what))
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
            counters: [("sent_packets", 4500), ("sent_calls", 100), ("received_forged", 7), ("received_vni", 0)]
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
