//! PURE: whose a device with flannel's and our kind of name is.

use crate::model::Mac;

/// What is seen of such a device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sighting {
    /// Routes with our protocol number lead through it.
    pub(super) our_routes: bool,
    /// Nexthops do. flannel, which replaces routes, leaves them.
    pub(super) our_nexthops: bool,
    /// Routes lead through it as flannel makes them.
    pub(super) flannels_routes: bool,
    pub(super) mac: Option<Mac>,
    /// The address that our state directory remembers for it.
    pub(super) remembered: Option<Mac>,
    /// Our packet filter table is in this network namespace.
    pub(super) table: bool,
}

/// It is ours, or why nothing says so. We remember the address of a device that was flannel's
/// and that flannel may have again, so its routes beat the memory.
pub(super) fn claim(seen: &Sighting) -> Result<(), &'static str> {
    if seen.our_routes {
        return Ok(());
    }
    if seen.flannels_routes {
        return Err("flannel's routes lead through it");
    }
    if seen.our_nexthops || seen.table || (seen.mac.is_some() && seen.mac == seen.remembered) {
        return Ok(());
    }
    Err("nothing shows that we made it: no routes or rules of ours, and the state directory does not know its MAC")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Option<Mac> = Some(Mac([2, 0, 0, 0, 0, 1]));

    #[test]
    fn any_one_sign_of_ours_is_enough() {
        let nothing = Sighting { mac: MAC, ..Sighting::default() };
        assert!(claim(&nothing).is_err());
        assert!(claim(&Sighting { mac: None, remembered: None, ..nothing }).is_err());
        assert!(claim(&Sighting { our_routes: true, ..nothing }).is_ok());
        assert!(claim(&Sighting { our_nexthops: true, ..nothing }).is_ok());
        assert!(claim(&Sighting { table: true, ..nothing }).is_ok());
        assert!(claim(&Sighting { remembered: MAC, ..nothing }).is_ok());
        assert!(claim(&Sighting { remembered: Some(Mac([2; 6])), ..nothing }).is_err());
    }

    #[test]
    fn a_flannel_that_came_back_keeps_its_device() {
        let back = Sighting {
            flannels_routes: true,
            our_nexthops: true,
            mac: MAC,
            remembered: MAC,
            table: true,
            ..Sighting::default()
        };
        assert!(claim(&back).is_err());
        assert!(claim(&Sighting { our_routes: true, ..back }).is_ok(), "a takeover that broke off half-way is ours");
    }
}
