//! Much data through one TCP connection, compared octet by octet.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::Netns;

/// No divisor of any power of two: what is displaced does not look right.
const CHUNK: usize = 251_003;
/// For each read and write: the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends so many octets from one namespace to an address in another, and compares each.
pub fn transfer(from: &Netns, to: &Netns, at: IpAddr, octets: usize) -> Result<()> {
    let listener = to.enter(|| TcpListener::bind((at, 0)))?.with_context(|| format!("listening at {at}"))?;
    let address = listener.local_addr()?;
    let stream = from.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    let stream = stream.with_context(|| format!("connecting to {address}"))?;
    let pattern = pattern();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, pattern.clone(), octets));
        let (stream, _) = listener.accept()?;
        let received = receive(stream, &pattern, octets).with_context(|| format!("receiving at {address}"));
        let sent = sender.join().expect("sending does not panic").with_context(|| format!("sending to {address}"));
        received.and(sent)
    })
}

/// Each chunk begins with its number.
fn send(mut stream: TcpStream, mut chunk: Vec<u8>, octets: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for (number, length) in chunks(octets) {
        chunk[..8].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&chunk[..length])?;
    }
    Ok(())
}

fn receive(mut stream: TcpStream, pattern: &[u8], octets: usize) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut chunk, mut wanted) = (vec![0; CHUNK], pattern.to_vec());
    for (number, length) in chunks(octets) {
        stream.read_exact(&mut chunk[..length]).with_context(|| format!("chunk {number}"))?;
        wanted[..8].copy_from_slice(&number.to_be_bytes());
        ensure!(chunk[..length] == wanted[..length], "chunk {number} is garbled");
    }
    ensure!(stream.read(&mut chunk)? == 0, "more came than was sent");
    Ok(())
}

/// Numbers and lengths.
fn chunks(octets: usize) -> impl Iterator<Item = (u64, usize)> {
    (0..octets).step_by(CHUNK).zip(0..).map(move |(begin, number)| (number, CHUNK.min(octets - begin)))
}

/// xorshift64
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(CHUNK).collect()
}
