//! The kernel's no, and how netlink spells it.

use std::fmt;

use nix::errno::Errno;

use super::wire::{HEADER, Message, NLMSG_DONE, attributes, text, u32_at};

/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` of an error message.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// The kernel's own words (extended acknowledgement), empty if it sent none.
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, text: &str) -> Self {
        Self { errno, text: text.to_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, text: String::new() }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        error
            .raw_os_error()
            .map_or_else(|| Self::new(Errno::EIO, &error.to_string()), |raw| Errno::from_raw(raw).into())
    }
}

/// What the last message of a dump says.
pub(super) fn verdict(message: &Message<'_>) -> Result<(), Refusal> {
    match message.kind {
        NLMSG_DONE => done(message).map_or(Ok(()), Err),
        _ => refusal(message).map_or(Ok(()), Err),
    }
}

/// What an `NLMSG_ERROR` says; `None`: success.
pub(super) fn refusal(message: &Message<'_>) -> Option<Refusal> {
    let errno = error_number(message.payload)?;
    let echoed = if message.flags & CAPPED != 0 {
        HEADER
    } else {
        // The request's own length, at the start of its echo.
        u32_at(message.payload, 4).and_then(|length| usize::try_from(length).ok())?
    };
    let skip = (4 + echoed).next_multiple_of(4);
    Some(Refusal { errno, text: words(message, skip) })
}

/// What an `NLMSG_DONE` says; `None`: success.
fn done(message: &Message<'_>) -> Option<Refusal> {
    Some(Refusal { errno: error_number(message.payload)?, text: words(message, 4) })
}

fn error_number(payload: &[u8]) -> Option<Errno> {
    let code = u32_at(payload, 0)?.cast_signed();
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

fn words(message: &Message<'_>, skip: usize) -> String {
    if message.flags & ACK_TLVS == 0 {
        return String::new();
    }
    attributes(message.payload, skip)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| text(value))
        .unwrap_or_default()
}
