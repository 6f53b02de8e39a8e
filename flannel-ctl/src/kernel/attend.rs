//! Keeps a listening thread listening: a socket that fails is replaced by another.

use std::{io, thread, time::Duration};

/// Between a failure and the next attempt.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What a listener has to say of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// Nothing is heard until [`Hearing::Again`], and why.
    Deaf(String),
    /// Whatever happened in between was not heard.
    Again,
}

/// Listens with `socket`, and after a failure with one that `open` makes, until `each` says that
/// nobody cares any more: to `listen`, which then returns `None`, or to `tell`.
pub(super) fn attend<S, E>(
    mut socket: S,
    mut each: E,
    mut open: impl FnMut() -> Result<S, String>,
    listen: impl Fn(&S, &mut E) -> Option<io::Error>,
    tell: impl Fn(&mut E, Hearing) -> bool,
    pause: Duration,
) {
    while let Some(error) = listen(&socket, &mut each) {
        let mut why = error.to_string();
        socket = loop {
            if !tell(&mut each, Hearing::Deaf(why)) {
                return;
            }
            thread::sleep(pause);
            match open() {
                Ok(socket) => break socket,
                Err(error) => why = error,
            }
        };
        if !tell(&mut each, Hearing::Again) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_fails_is_replaced_and_both_is_said() {
        let mut sockets = vec![Ok(3), Err("no memory".to_owned()), Ok(2)];
        let mut said = Vec::new();
        attend(
            1,
            &mut said,
            || sockets.pop().expect("no more than three"),
            |socket, said| {
                said.push(format!("listening with {socket}"));
                (*socket < 3).then(|| io::Error::from_raw_os_error(nix::libc::EIO))
            },
            |said, hearing| {
                said.push(format!("{hearing:?}"));
                true
            },
            Duration::ZERO,
        );
        let deaf = "Deaf(\"Input/output error (os error 5)\")";
        assert_eq!(
            said,
            [
                "listening with 1",
                deaf,
                "Again",
                "listening with 2",
                deaf,
                "Deaf(\"no memory\")",
                "Again",
                "listening with 3"
            ]
        );
    }

    #[test]
    fn it_ends_with_those_who_listened() {
        let fails = |&(): &(), &mut (): &mut ()| Some(io::Error::other("gone"));
        attend((), (), || unreachable!("nobody listens any more"), fails, |(), _| false, Duration::ZERO);
    }
}
