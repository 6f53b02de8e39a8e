//! Takes TCP connections inside a namespace and carries them to an address outside.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result};

use super::Netns;

/// Runs until the process ends: its listening socket is of no use to anybody once the namespace is gone.
#[derive(Debug)]
pub(super) struct Relay;

impl Relay {
    pub(super) fn start(netns: &Netns, listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = netns
            .enter(|| TcpListener::bind(listen))?
            .with_context(|| format!("listening on {listen} in {}", netns.name()))?;
        thread::spawn(move || {
            for inner in listener.incoming().flatten() {
                thread::spawn(move || {
                    // A refused or broken connection is for the two ends to notice: both sides are closed.
                    if let Ok(outer) = TcpStream::connect(target) {
                        drop(both_ways(&inner, &outer));
                    }
                });
            }
        });
        Ok(Self)
    }
}

fn both_ways(inner: &TcpStream, outer: &TcpStream) -> io::Result<()> {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        let copied = io::copy(&mut from, &mut to);
        copied.and(to.shutdown(Shutdown::Write))
    };
    thread::scope(|scope| {
        let back = scope.spawn(|| one_way(outer, inner));
        let there = one_way(inner, outer);
        there.and(back.join().unwrap_or_else(|_| Err(io::Error::other("the relay's thread panicked"))))
    })
}
