//! The answering side of requests, connections and integrity checks.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};

use super::{Port, READY, integrity, say};

/// Serves until it is killed.
pub(super) fn run(address: IpAddr) -> Result<()> {
    let listen =
        |port: Port| TcpListener::bind(port.of(address)).with_context(|| format!("listening at {}", port.of(address)));
    let (echo, connect, sink) = (listen(Port::TcpEcho)?, listen(Port::Connect)?, listen(Port::Integrity)?);
    let datagrams = UdpSocket::bind(Port::UdpEcho.of(address)).context("binding the UDP echo")?;
    say(READY)?;
    thread::scope(|scope| {
        scope.spawn(|| each(&echo, |stream| drop(thread::spawn(move || tell(echo_stream(stream))))));
        scope.spawn(|| each(&connect, |stream| tell(answer_once(stream))));
        scope.spawn(|| each(&sink, |stream| tell(integrity::answer(stream))));
        scope.spawn(|| tell(echo_datagrams(&datagrams)));
    });
    Ok(())
}

fn each(listener: &TcpListener, mut serve: impl FnMut(TcpStream)) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => serve(stream),
            Err(error) => eprintln!("load: accepting: {error}"),
        }
    }
}

/// A client that goes away ends its flow, not the server.
fn tell(outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("load: {error:#}");
    }
}

fn echo_stream(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 64];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}

/// Closes first, so that the client's port is free again at once.
fn answer_once(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 1];
    stream.read_exact(&mut buffer)?;
    Ok(stream.write_all(&buffer)?)
}

fn echo_datagrams(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (read, from) = socket.recv_from(&mut buffer)?;
        match socket.send_to(&buffer[..read], from) {
            Ok(_) => {}
            // A client that has ended makes the kernel say so to the next call.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}
