//! Listening to the kernel and its packet filter, each on a thread of its own.

use std::{sync::mpsc::Sender, thread::JoinHandle};

use super::StartError;
use crate::{
    kernel::{
        Notice,
        filter::{Listener, Own, Touched},
        linux::LinuxKernel,
        monitor,
    },
    reconcile::{Ear, Inbox, Wake},
};

/// Notices that may wait for the loop. More than one pass over a large cluster lets pile up, and
/// a few MB at most; beyond it a full look at the kernel is cheaper anyhow.
const WAITING: usize = 4096;

/// Starts the threads; they end with the loop.
pub(super) fn listen(
    wake_tx: &Sender<Wake<Notice>>,
    kernel: &LinuxKernel,
    own: Own,
) -> Result<Vec<(&'static str, JoinHandle<()>)>, StartError> {
    let mut threads =
        vec![("thread that listens to the kernel", monitor::spawn(kernel.port(), hear(wake_tx.clone()))?)];
    match Listener::start(own, hear_filter(wake_tx.clone())) {
        Ok(thread) => threads.push(("thread that listens to the packet filter", thread)),
        // A kernel without nf_tables: rules are then looked at with every sweep.
        Err(error) => tracing::warn!(%error, "no notices of packet filter changes; looking at them every 10 s"),
    }
    Ok(threads)
}

/// Passes notices on to the loop; `false` when there is none any more.
fn hear(wake_tx: Sender<Wake<Notice>>) -> impl FnMut(Notice) -> bool {
    let inbox = Inbox::new(WAITING, Notice::Overflow);
    let mut deaf = false;
    move |notice| match notice {
        Notice::Deaf(why) => {
            deaf = true;
            wake_tx.send(Wake::Deaf(Ear::Kernel, Some(why))).is_ok()
        }
        notice => {
            let again = std::mem::take(&mut deaf);
            (!again || wake_tx.send(Wake::Deaf(Ear::Kernel, None)).is_ok())
                && (!inbox.push(notice) || wake_tx.send(Wake::Kernel(inbox.clone())).is_ok())
        }
    }
}

fn hear_filter(wake_tx: Sender<Wake<Notice>>) -> impl FnMut(Touched) -> bool {
    let (inbox, others) = (Inbox::new(1, ()), Inbox::new(1, ()));
    let mut deaf = false;
    move |touched| match touched {
        Touched::Others => !others.push(()) || wake_tx.send(Wake::OthersRules(others.clone())).is_ok(),
        Touched::Deaf(why) => {
            deaf = true;
            wake_tx.send(Wake::Deaf(Ear::Filter, Some(why))).is_ok()
        }
        Touched::Rules => {
            let again = std::mem::take(&mut deaf);
            (!again || wake_tx.send(Wake::Deaf(Ear::Filter, None)).is_ok())
                && (!inbox.push(()) || wake_tx.send(Wake::Filter(inbox.clone())).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::kernel::netlink::nexthop::Nexthop;

    #[test]
    fn ten_thousand_notices_while_the_loop_is_stuck_are_one_wake_and_one_full_look() {
        let (wake_tx, wake_rx) = mpsc::channel();
        let mut hear = hear(wake_tx);
        let nexthop = |id| Nexthop { id, device: 0, gateway: None, protocol: 0, onlink: false };
        for id in 0..10_000 {
            assert!(hear(Notice::Nexthop { gone: false, nexthop: nexthop(id) }));
        }
        let wakes: Vec<_> = wake_rx.try_iter().collect();
        let [Wake::Kernel(inbox)] = wakes.as_slice() else { panic!("{wakes:?}") };
        assert_eq!(inbox.take(), [Notice::Overflow]);
        hear(Notice::Overflow);
        assert_eq!(wake_rx.try_iter().count(), 1, "and the next one wakes again");
    }

    #[test]
    fn deaf_and_hearing_again_are_told_before_what_is_heard() {
        let (wake_tx, wake_rx) = mpsc::channel();
        let mut hear = hear(wake_tx);
        hear(Notice::Deaf("EIO".into()));
        hear(Notice::Overflow);
        hear(Notice::Overflow);
        let wakes: Vec<_> = wake_rx.try_iter().collect();
        assert!(
            matches!(
                wakes.as_slice(),
                [Wake::Deaf(Ear::Kernel, Some(_)), Wake::Deaf(Ear::Kernel, None), Wake::Kernel(_)]
            ),
            "{wakes:?}"
        );
    }

    #[test]
    fn a_storm_in_the_packet_filter_is_one_wake() {
        let (wake_tx, wake_rx) = mpsc::channel();
        let mut hear = hear_filter(wake_tx);
        assert!((0..10_000).all(|_| hear(Touched::Rules)));
        assert_eq!(wake_rx.try_iter().count(), 1);
        drop(wake_rx);
        assert!(!hear(Touched::Deaf("EIO".into())), "nobody listens any more");
    }
}
