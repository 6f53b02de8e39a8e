//! The BPF object that is part of the binary: bytes, and how to load them.

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, PerCpuArray},
};
use flannel_common::{COUNTERS_MAP, Counter, VXLAN_PORT_GLOBAL};

/// Whether this binary was built with the BPF programs (`FLANNEL_BPF`, see `build.rs`).
pub const EMBEDDED: bool = cfg!(bpf_object);

/// The object file; empty if not [`EMBEDDED`].
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));

/// Name of the program for the uplink's TC ingress hook.
pub const UPLINK_INGRESS: &str = "uplink_ingress";

/// Why the object could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this flannel-ctl was built without the BPF programs (FLANNEL_BPF=require cargo build)")]
    NotEmbedded,
    #[error("loading the BPF object")]
    Load(#[from] EbpfError),
    #[error("the BPF object has no map {0}")]
    NoMap(&'static str),
    #[error("reading the BPF map {COUNTERS_MAP}")]
    Counters(#[from] MapError),
}

/// Creates the maps and hands the programs to the kernel's verifier when each is loaded by name.
///
/// `vxlan_port` is the tunnel's UDP port.
pub fn load(vxlan_port: u16) -> Result<Ebpf, Error> {
    if !EMBEDDED {
        return Err(Error::NotEmbedded);
    }
    Ok(EbpfLoader::new().override_global(VXLAN_PORT_GLOBAL, &vxlan_port, true).load(OBJECT)?)
}

/// Sum over all CPUs of one counter.
pub fn counter(bpf: &Ebpf, counter: Counter) -> Result<u64, Error> {
    let map = bpf.map(COUNTERS_MAP).ok_or(Error::NoMap(COUNTERS_MAP))?;
    let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
    Ok(counters.get(&counter.slot(), 0)?.iter().sum())
}
