//! Our engine, with one packet a call.

use std::{sync::Arc, sync::mpsc};

use anyhow::{Context as _, Result, bail};
use flannel_ctl::{
    model::{Forward, Mac},
    userspace::{Engine, Offloads, Options, Table, Wire},
};

use super::Tunnel;
use crate::load::{READY, say};

const PORT: u16 = 8472;

pub(crate) fn run(tunnel: &Tunnel) -> Result<()> {
    let mac = |address: std::net::Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        Mac([2, 0, a, b, c, d])
    };
    let table = Arc::new(Table::default());
    let forward = Forward { public: tunnel.peer.into(), mac: mac(tunnel.peer) };
    table.apply([(tunnel.subnet.parse().context("the peer's subnet")?, Some(forward))]);
    let options = Options {
        wire: Wire::Vxlan { vni: 1, port: PORT, mac: mac(tunnel.local) },
        device: tunnel.device.clone(),
        mtu: tunnel.mtu,
        local: tunnel.local.into(),
        queues: None,
        offloads: Offloads::NONE,
        receive_buffer: Options::RECEIVE_BUFFER,
    };
    let (ended_tx, ended) = mpsc::channel();
    let engine = Engine::start(&options, &table, move |error| drop(ended_tx.send(error)))?;
    say(READY)?;
    let error = ended.recv().context("the engine is gone")?;
    engine.stop();
    bail!(error)
}
