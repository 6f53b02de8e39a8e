//! A TCP stream that must not break.

use std::time::Duration;

use serde_json::Value;
use xtask::lab::{Cluster, Family, Process, wait};

/// iperf3 from pod to pod.
pub(crate) struct Stream {
    server: Process,
    client: Process,
    logs: tempfile::TempDir,
}

impl Stream {
    /// Runs until [`Stream::assert_unbroken`].
    pub(crate) fn start(cluster: &Cluster, from: usize, to: usize) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let (from, to) = (cluster.node(from).pod(), cluster.node(to).pod());
        let address = to.address(Family::V4).unwrap().to_string();
        let mut command = to.netns().command("iperf3");
        let server = Process::spawn("iperf3 -s", command.args(["-s", "-1", "--forceflush"]), &logs.path().join("s"));
        let server = server.unwrap();
        wait::until("iperf3 to listen", wait::SHORT, || server.log().contains("Server listening").then_some(()))
            .unwrap();
        let mut command = from.netns().command("iperf3");
        // Paced, so that the ping beside it is not lost in a full queue.
        command.args(["-c", &address, "-C", "cubic", "-b", "100M", "-t", "600", "-J"]);
        let client = Process::spawn("iperf3 -c", &mut command, &logs.path().join("c")).unwrap();
        wait::until("the stream to flow", wait::SHORT, || server.log().contains("connected to").then_some(())).unwrap();
        Self { server, client, logs }
    }

    /// Ends it: there was no error, and no second without bytes.
    pub(crate) fn assert_unbroken(mut self) {
        assert!(self.client.ended().unwrap().is_none(), "the stream broke: {}", self.client.log());
        self.client.signal(nix::sys::signal::Signal::SIGINT).unwrap();
        wait::until("iperf3 to end", wait::SHORT, || self.client.ended().unwrap()).unwrap();
        let text = self.client.log();
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let intervals = report["intervals"].as_array().unwrap();
        for interval in intervals {
            let sum = &interval["sum"];
            let whole = sum["seconds"].as_f64().unwrap() > Duration::from_millis(900).as_secs_f64();
            assert!(!whole || sum["bytes"].as_u64().unwrap() > 0, "a second of silence: {interval:#}");
        }
        println!("TCP over {} s, {} retransmits", intervals.len(), report["end"]["sum_sent"]["retransmits"]);
        drop((self.server, self.logs));
    }
}
