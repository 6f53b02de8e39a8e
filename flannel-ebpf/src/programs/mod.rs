//! The exported programs: each calls, counts and returns a verdict.
//!
//! | program | hook | does |
//! | --- | --- | --- |
//! | `pod_ingress` | ingress of a pod's host side | encapsulates known flows; notes what goes into the host's stack |
//! | `uplink_egress` | egress of the uplink | sees what came out of the stack as a tunnel packet, and learns |
//! | `uplink_ingress` | ingress of the uplink | decapsulates known flows |
//! | `vtep_ingress` | ingress of the VXLAN device | notes what comes out of the tunnel into the host's stack |
//! | `pod_egress` | egress of a pod's host side | sees what the stack delivered, and learns |

mod pod_egress;
mod pod_ingress;
mod trace;
mod uplink_egress;
mod uplink_ingress;
mod vtep_ingress;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::classifier,
    programs::TcContext,
};
use flannel_common::{Counter, PodInterface, Settings, Tuple};

use self::trace::{At, Trace};
use crate::{
    maps::{Way, count, settings},
    packet::{Packet, Refused},
};

/// Leaves the packet to whoever is attached behind us, and then to the stack. Also `TCX_NEXT`.
const NEXT: i32 = TC_ACT_UNSPEC;

/// A decision of the fast path.
#[derive(Clone, Copy)]
enum Decision {
    /// Counted; the verdict.
    Take(Counter, i32),
    /// Counted; the kernel path gets it untouched.
    Leave(Counter),
    /// Counted and dropped.
    Drop(Counter),
}

impl From<Counter> for Decision {
    fn from(counter: Counter) -> Self {
        Self::Leave(counter)
    }
}

/// After the packet has been changed there is no way back.
fn lost(_: Refused) -> Decision {
    Decision::Drop(Counter::Lost)
}

#[inline(always)]
fn carry_out(decision: Decision, trace: Trace) -> i32 {
    let (counter, verdict) = match decision {
        Decision::Take(counter, verdict) => (counter, verdict),
        Decision::Leave(counter) => (counter, NEXT),
        Decision::Drop(counter) => (counter, TC_ACT_SHOT),
    };
    count(counter);
    trace.end(Some(counter), verdict);
    verdict
}

/// What a learner found: a flow, nothing to look at, or something that it does not learn from.
type Lesson = Result<Option<Counter>, Counter>;

#[inline(always)]
fn note(lesson: Lesson, trace: Trace) -> i32 {
    let found = match lesson {
        Ok(found) => found,
        Err(counter) => Some(counter),
    };
    if let Some(counter) = found {
        count(counter);
    }
    trace.end(found, NEXT);
    NEXT
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "the exported function that the macro writes calls it so")]
fn pod_ingress(context: TcContext) -> i32 {
    let packet = Packet::new(&context);
    let trace = Trace::begin(packet, At::PodIngress);
    let Some(settings) = settings() else {
        return carry_out(Counter::EgressDisabled.into(), trace);
    };
    carry_out(pod_ingress::decide(packet, settings).unwrap_or_else(|decision| decision), trace)
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "as above")]
fn uplink_ingress(context: TcContext) -> i32 {
    let packet = Packet::new(&context);
    let trace = Trace::begin(packet, At::UplinkIngress);
    let Some(settings) = settings() else {
        return carry_out(Counter::IngressDisabled.into(), trace);
    };
    carry_out(uplink_ingress::decide(packet, settings).unwrap_or_else(|decision| decision), trace)
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "as above")]
fn uplink_egress(context: TcContext) -> i32 {
    let packet = Packet::new(&context);
    let trace = Trace::begin(packet, At::UplinkEgress);
    note(uplink_egress::learn(packet), trace)
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "as above")]
fn vtep_ingress(context: TcContext) -> i32 {
    let packet = Packet::new(&context);
    let trace = Trace::begin(packet, At::VtepIngress);
    vtep_ingress::remember(packet);
    trace.end(None, NEXT);
    NEXT
}

#[classifier]
#[expect(clippy::needless_pass_by_value, reason = "as above")]
fn pod_egress(context: TcContext) -> i32 {
    let packet = Packet::new(&context);
    let trace = Trace::begin(packet, At::PodEgress);
    note(pod_egress::learn(packet), trace)
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// The kernel's ticks since it started: read in an instruction, where the clock takes a call.
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_jiffies64() }
}

/// Nobody keeps up to date what the programs know: what they would repeat may be of another time. No proof outlasts this, so
/// the fast path itself need not ask.
#[inline(always)]
fn is_deserted(settings: &Settings, now: u64) -> bool {
    now > settings.deadline
}

/// Until when what is proved now holds.
#[inline(always)]
fn expiry(settings: &Settings, now: u64) -> u64 {
    (now + settings.validity).min(settings.deadline)
}

/// The tick from which on that is over: at a time `expiry`, as seen at the time `now`.
#[inline(always)]
fn until(settings: &Settings, expiry: u64, now: u64) -> u64 {
    ticks() + expiry.saturating_sub(now).checked_div(settings.tick).unwrap_or(0)
}

/// A packet that is cut into datagrams later. Stripped by a program it still counts as a tunnel packet to the kernel
/// (`bpf_skb_net_shrink` leaves `SKB_GSO_UDP_TUNNEL`, 6.18), whose UDP, other than TCP, cuts before it delivers: it would
/// look for a VXLAN header in the payload, and drop all.
#[inline(always)]
fn are_datagrams_in_one_piece(tuple: &Tuple, segment: u32) -> bool {
    const UDP: u32 = 17;
    segment != 0 && tuple.protocol == UDP
}

/// One more new flow of a pod, if it has not had too many of this direction this second: so that one pod that opens flows, or is
/// sent flows, without end does not push out everybody else's.
#[inline(always)]
fn within_rate(pod: *mut PodInterface, way: Way, settings: &Settings, now: u64) -> Result<(), Counter> {
    const SECOND: u64 = 1_000_000_000;
    // SAFETY: an element of a hash, whose memory lives as long as the map. Two CPUs that count at once may
    // lose a count: the limit is approximate.
    unsafe {
        if now.saturating_sub((*pod).since) > SECOND {
            (*pod).since = now;
            (*pod).sent = 0;
            (*pod).received = 0;
        }
        let learned = match way {
            Way::Egress => &raw mut (*pod).sent,
            Way::Ingress => &raw mut (*pod).received,
        };
        if *learned >= settings.pod_rate {
            return Err(Counter::LearnRate);
        }
        *learned += 1;
    }
    Ok(())
}
