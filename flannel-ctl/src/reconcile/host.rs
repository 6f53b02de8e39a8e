//! What the loop needs from the node besides its kernel tables.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::{model::Uplink, plan::Facts};

/// The node around the loop, real or in a test.
pub trait Host {
    /// Chooses the uplink again, by the operator's rules.
    fn uplink(&mut self) -> Result<Uplink, String>;

    /// This node's addresses and directly reached networks, our own devices' and pods' left out.
    fn surroundings(&mut self, facts: &Facts) -> Result<Surroundings, String>;

    /// Our own part is in place: writes subnet.env, and lets the lease say where we are.
    fn publish(&mut self, facts: &Facts) -> Result<(), String>;

    /// A large pass is over: memory that it needed can go back.
    fn rest(&mut self) {}
}

/// What a lease can collide with on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub local_addresses: BTreeSet<IpAddr>,
    pub local_nets: Vec<(IpNet, String)>,
}
