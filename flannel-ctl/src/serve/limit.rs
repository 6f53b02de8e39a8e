//! A listener that strangers cannot use up: so many connections, so long each.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

/// So many connections, or fewer where the process may open few files: an eighth of them, so that
/// whoever connects and stays cannot keep the daemon from its sockets and tools.
pub(super) fn affordable(connections: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    open_files(&limits).map_or(connections, |files| connections.min((files / 8).max(2)))
}

/// The soft limit in `/proc/PID/limits`; `None` is unlimited, or unknown.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Accepts no more than a number of connections at a time, each for a limited time. Whoever
/// comes later waits in the kernel's queue.
pub(super) struct Limited<L> {
    listener: L,
    slots: Arc<Semaphore>,
    lifetime: Duration,
}

impl<L> Limited<L> {
    pub(super) fn new(listener: L, connections: usize, lifetime: Duration) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(connections)), lifetime }
    }
}

impl<L: Listener> Listener for Limited<L> {
    type Io = LimitedIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("nobody closes the semaphore");
        let (io, address) = self.listener.accept().await;
        (LimitedIo { io, deadline: Box::pin(sleep(self.lifetime)), _slot: slot }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
pub(super) struct LimitedIo<Io> {
    io: Io,
    deadline: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl<Io: Unpin> LimitedIo<Io> {
    /// The connection, or the end of it.
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut Io>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's time is over"));
        }
        Ok(Pin::new(&mut self.io))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for LimitedIo<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?.poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for LimitedIo<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn few_files_mean_few_connections() {
        let text = "Limit        Soft Limit   Hard Limit   Units\nMax open files            64                   4096                 files     \n";
        assert_eq!(open_files(text), Some(64));
        assert_eq!(open_files("Max open files            unlimited            unlimited            files"), None);
        assert!((2..=64).contains(&affordable(64)));
    }

    #[tokio::test]
    async fn an_idle_connection_makes_room_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = Limited::new(listener, 1, Duration::from_millis(50));
        let _idle = TcpStream::connect(address).await.unwrap();
        let (mut first, _) = limited.accept().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"x").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(10), limited.accept()).await.is_err());
        let error = first.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(first);
        let (mut served, _) = limited.accept().await;
        assert_eq!(served.read_u8().await.unwrap(), b'x');
    }
}
