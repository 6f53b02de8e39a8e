//! What the fast path's maps say, in the form in which people and programs read it. Nothing here reads them.

pub mod counts;
pub mod flows;
pub mod protocol;
pub mod trace;

pub use counts::{Counts, Share, Way};
pub use flows::{Flow, Known};
pub use trace::Told;
