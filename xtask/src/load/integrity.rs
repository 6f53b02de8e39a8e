//! Is what arrives what was sent? Pseudo-random bytes, summed up at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpStream},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Port, respond::connected};

const CHUNK: usize = 64 * 1024;

/// What both ends summed up.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Integrity {
    pub(crate) sent: String,
    pub(crate) received: String,
}

impl Integrity {
    pub(crate) fn holds(&self) -> bool {
        self.sent == self.received
    }
}

/// Sends, and has the server say what it got.
pub(super) fn send(address: IpAddr, megabytes: usize) -> Result<Integrity> {
    let mut stream = connected(Port::Integrity.of(address))?;
    let (mut sum, mut bytes) = (Sum::default(), Noise(0x9e37_79b9_7f4a_7c15));
    let mut chunk = vec![0; CHUNK];
    for _ in 0..megabytes * 1024 * 1024 / CHUNK {
        bytes.fill(&mut chunk);
        sum.add(&chunk);
        stream.write_all(&chunk).context("sending")?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut received = String::new();
    stream.read_to_string(&mut received).context("waiting for the server's sum")?;
    Ok(Integrity { sent: sum.text(), received })
}

/// The server's side of [`send`].
pub(super) fn answer(mut stream: TcpStream) -> Result<()> {
    let mut sum = Sum::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            read => sum.add(&chunk[..read]),
        }
    }
    Ok(stream.write_all(sum.text().as_bytes())?)
}

/// Length and FNV-1a; whoever garbles packets by accident does not keep both.
#[derive(Debug)]
struct Sum {
    bytes: usize,
    hash: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn text(&self) -> String {
        format!("{} bytes, {:016x}", self.bytes, self.hash)
    }
}

/// xorshift64
struct Noise(u64);

impl Noise {
    fn fill(&mut self, into: &mut [u8]) {
        for eight in into.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let length = eight.len();
            eight.copy_from_slice(&self.0.to_le_bytes()[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_does_not_depend_on_how_the_bytes_come_in_but_on_their_order() {
        let mut bytes = vec![0; 1000];
        Noise(1).fill(&mut bytes);
        let sum = |parts: &[&[u8]]| {
            let mut sum = Sum::default();
            parts.iter().for_each(|part| sum.add(part));
            sum.text()
        };
        assert_eq!(sum(&[&bytes]), sum(&[&bytes[..3], &bytes[3..]]));
        assert_ne!(sum(&[&bytes]), sum(&[&bytes[3..], &bytes[..3]]));
        assert_ne!(sum(&[&bytes]), sum(&[&bytes[..999]]));
    }
}
