//! A queue's thread: carries packets both ways, and waits for them.
//!
//! One thread for both directions: a request and its answer, data and its acknowledgements, find it awake.

use std::{io, os::fd::AsFd as _, sync::Arc, thread, time::Instant};

use nix::sys::prctl::set_timerslack;

use super::{
    EngineError,
    decapsulate::Decapsulate,
    encapsulate::Encapsulate,
    pace::{NAP, Next, Pace},
    shared::Shared,
    stay::Stay,
};

/// Until the engine is stopped, or the device is gone.
pub(super) fn run(
    shared: &Arc<Shared>,
    queue: usize,
    mut out: Encapsulate,
    mut into: Decapsulate,
) -> Result<(), EngineError> {
    let sources = [shared.tun.queues[queue].as_fd(), shared.sockets.receive[queue].as_fd()];
    // The default makes a nap twice as long.
    set_timerslack(1).map_err(|errno| EngineError::Thread { source: io::Error::from(errno) })?;
    let (mut pace, mut stay) = (Pace::new(Instant::now()), Stay::default());
    while !shared.stop.is_rung() {
        let one = pace.is_answering();
        let found = out.turn(one)?.and(into.turn(one)?);
        let next = pace.next(Instant::now(), found);
        stay.set(pace.stays());
        match next {
            Next::Look => {}
            Next::Yield => {
                thread::yield_now();
                pace.resumed(Instant::now());
            }
            Next::Nap => thread::sleep(NAP),
            Next::Sleep => {
                shared.stop.wait(sources, into.patience()).map_err(|e| shared.socket_error("wait for packets", e))?;
            }
        }
    }
    Ok(())
}
