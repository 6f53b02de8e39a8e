//! Connect, request, response, close: where a datapath that learns per connection pays for it.

use std::{
    io::{Read as _, Write as _},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Client, MEASURING, Port,
    latency::Latencies,
    respond::{Responses, connected},
    say,
};

pub(super) fn run(client: &Client) -> Result<Responses> {
    ensure!(client.flows == 1, "connections are made one after the other");
    let to = Port::Connect.of(client.address);
    let (begin, end) = client.window.from(Instant::now());
    let (mut times, mut told) = (Latencies::default(), false);
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(Responses::new(times, 0, client.window.seconds));
        }
        if start >= begin && !told {
            say(MEASURING)?;
            told = true;
        }
        let mut stream = connected(to)?;
        stream.write_all(&[42]).context("sending a request")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("waiting for a response and the end")?;
        ensure!(answer == [42], "the response was {answer:?}");
        drop(stream);
        let now = Instant::now();
        if start >= begin && now <= end {
            times.push(now - start);
        }
    }
}
