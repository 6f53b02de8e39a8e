//! What the userspace datapath carries: with it, a daemon that starts anew carries packets before its store answers.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FileError, atomic};
use crate::model::{EnginePolicy, Family, Forward, Kept, Mac, Wire};

pub const NAME: &str = "forwarding.json";

#[derive(Serialize, Deserialize)]
struct File {
    engines: Vec<Engine>,
    peers: Vec<Peer>,
}

#[derive(Serialize, Deserialize)]
struct Engine {
    device: String,
    mtu: u32,
    local: IpAddr,
    port: u16,
    /// Both absent on flannel's udp wire.
    vni: Option<u32>,
    mac: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Peer {
    net: IpNet,
    public: IpAddr,
    mac: String,
}

fn path_in(run_dir: &Path) -> PathBuf {
    run_dir.join(NAME)
}

/// What the last daemon left. A damaged file is the same as none.
pub fn load(run_dir: &Path) -> Result<Option<Kept>, FileError> {
    let path = path_in(run_dir);
    match fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok().and_then(|file| read(&file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", &path)(error)),
    }
}

/// Leaves it for the next daemon.
pub fn store(run_dir: &Path, kept: &Kept) -> Result<(), FileError> {
    let file = File {
        engines: kept.engines.values().map(engine).collect(),
        peers: kept
            .forwards
            .iter()
            .map(|(net, forward)| Peer { net: *net, public: forward.public, mac: forward.mac.to_string() })
            .collect(),
    };
    let path = path_in(run_dir);
    let text = serde_json::to_vec(&file).map_err(|error| FileError::of("write", &path)(error.into()))?;
    atomic::replace(&path, &text, 0o600).map(drop)
}

/// Another datapath carries the packets now.
pub fn forget(run_dir: &Path) -> Result<(), FileError> {
    atomic::remove(&path_in(run_dir))
}

fn engine(policy: &EnginePolicy) -> Engine {
    let (port, vni, mac) = match policy.wire {
        Wire::Vxlan { vni, port, mac } => (port, Some(vni), Some(mac.to_string())),
        Wire::Raw { port } => (port, None, None),
    };
    Engine { device: policy.device.clone(), mtu: policy.mtu, local: policy.local, port, vni, mac }
}

fn read(file: &File) -> Option<Kept> {
    let engine = |engine: &Engine| {
        let wire = match (engine.vni, &engine.mac) {
            (Some(vni), Some(mac)) => Wire::Vxlan { vni, port: engine.port, mac: mac.parse().ok()? },
            (None, None) => Wire::Raw { port: engine.port },
            (Some(_), None) | (None, Some(_)) => return None,
        };
        let Engine { device, mtu, local, .. } = engine;
        let policy = EnginePolicy { wire, device: device.clone(), mtu: *mtu, local: *local };
        Some((Family::of(local), policy))
    };
    let forward = |peer: &Peer| Some((peer.net, Forward { public: peer.public, mac: peer.mac.parse::<Mac>().ok()? }));
    Some(Kept {
        engines: file.engines.iter().map(engine).collect::<Option<_>>()?,
        forwards: file.peers.iter().map(forward).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let engine = |wire, device: &str, local: &str| EnginePolicy {
            wire,
            device: device.into(),
            mtu: 1450,
            local: local.parse().unwrap(),
        };
        let vxlan = Wire::Vxlan { vni: 1, port: 8472, mac };
        Kept {
            engines: [
                (Family::V4, engine(Wire::Raw { port: 8285 }, "flannel0", "192.0.2.1")),
                (Family::V6, engine(vxlan, "flannel-v6.1", "2001:db8::1")),
            ]
            .into(),
            forwards: [
                ("10.244.2.0/24".parse().unwrap(), Forward { public: [192, 0, 2, 2].into(), mac: Mac::ZERO }),
                ("fd00:2::/64".parse().unwrap(), Forward { public: "2001:db8::2".parse().unwrap(), mac }),
            ]
            .into(),
        }
    }

    #[test]
    fn what_is_left_is_found_again_and_damage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        store(dir.path(), &kept()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(kept()));
        let text = fs::read_to_string(dir.path().join(NAME)).unwrap();
        let damaged = [
            "",
            "[]",
            "{",
            &text[..text.len() / 2],
            &text.replace("02:00:00:00:00:01", "02:00"),
            // One half of what a VXLAN wire needs.
            &text.replacen("\"mac\":\"02:00:00:00:00:01\"", "\"mac\":null", 1),
            &text.replacen("\"vni\":1", "\"vni\":null", 1),
        ];
        for damaged in damaged {
            assert_ne!(damaged, text);
            fs::write(dir.path().join(NAME), damaged).unwrap();
            assert_eq!(load(dir.path()).unwrap(), None, "{damaged}");
        }
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
    }
}
