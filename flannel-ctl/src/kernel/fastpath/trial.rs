//! The programs on maps of their own that nobody else sees: bytes in, bytes out (`BPF_PROG_TEST_RUN`), or attached to
//! an interface for as long as the value lives. For tests; the daemon does not use it.

use std::{io, time::Duration};

use aya::programs::{LinkOrder, ProgramError, TestRun as _, TestRunOptions, tc::TcAttachOptions};
use flannel_common::{
    Address, COUNTERS_MAP, Counter, EGRESS_MAP, EgressFlow, INGRESS_MAP, IngressFlow, PEERS_MAP, PODS_MAP, Peer,
    PodInterface, SETTINGS_MAP, Settings, Tuple,
};
use nix::libc;

use super::{
    FastPathError, Hook, Sizes, bpf,
    object::{self, Programs},
    table::{Hash, Single, failed, sums},
};

/// Of `enum bpf_cmd` (`linux/bpf.h`).
const TEST_RUN: libc::c_long = 10;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (`linux/bpf.h`, 6.17).
const TEST_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// The member of `union bpf_attr` for [`TEST_RUN`].
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    outcome: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: [u32; 2],
}

/// Loaded programs, nothing pinned.
pub struct Trial {
    programs: Programs,
    settings: Single<Settings>,
    peers: Hash<Address, Peer>,
    pods: Hash<u32, PodInterface>,
    egress: Hash<Tuple, EgressFlow>,
    ingress: Hash<Tuple, IngressFlow>,
    counters: aya::maps::Map,
}

/// What a program is told besides the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Interface of the calling thread's network namespace; 0 is its loopback.
    pub interface: u32,
    /// Payload of each segment, or 0. The kernel sets no type with it, so that it refuses to change such a packet.
    pub segment: u32,
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// -1: next program; 2: drop; 7: redirect.
    pub verdict: i32,
    pub packet: Vec<u8>,
}

impl Context {
    /// `struct __sk_buff` (`linux/bpf.h`); the rest must be zero.
    fn encode(self) -> [u8; 192] {
        const INTERFACE: usize = 40;
        const SEGMENT: usize = 176;
        let mut octets = [0; 192];
        octets[INTERFACE..][..4].copy_from_slice(&self.interface.to_ne_bytes());
        octets[SEGMENT..][..4].copy_from_slice(&self.segment.to_ne_bytes());
        octets
    }
}

impl Trial {
    /// Creates the maps and hands the programs to the verifier.
    pub fn load(sizes: Sizes) -> Result<Self, FastPathError> {
        let mut programs = object::load_unpinned(sizes)?;
        Ok(Self {
            settings: Single::new(SETTINGS_MAP, programs.take_map(SETTINGS_MAP)?)?,
            peers: Hash::new(PEERS_MAP, programs.take_map(PEERS_MAP)?)?,
            pods: Hash::new(PODS_MAP, programs.take_map(PODS_MAP)?)?,
            egress: Hash::new(EGRESS_MAP, programs.take_map(EGRESS_MAP)?)?,
            ingress: Hash::new(INGRESS_MAP, programs.take_map(INGRESS_MAP)?)?,
            counters: programs.take_map(COUNTERS_MAP)?,
            programs,
        })
    }

    /// Runs a program once on this CPU.
    pub fn run(&self, hook: Hook, packet: &[u8], context: Context) -> Result<Outcome, FastPathError> {
        const ROOM: usize = 256;
        let mut out = vec![0; packet.len() + ROOM];
        let context = context.encode();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let program = self.programs.look(hook)?;
        let result = program.test_run(options).map_err(|cause| hook.failed(cause))?;
        out.truncate(result.data_size_out as usize);
        Ok(Outcome { verdict: result.return_value.cast_signed(), packet: out })
    }

    /// Runs a program on a packet whose interface has summed up all of it (`CHECKSUM_COMPLETE`). Is what comes out as it
    /// is accounted for? `None`: this kernel cannot tell.
    pub fn keeps_sum(&self, hook: Hook, packet: &[u8]) -> Result<Option<bool>, FastPathError> {
        let failed = |cause| hook.failed(cause);
        let number =
            |value: usize| u32::try_from(value).map_err(|error| failed(ProgramError::IOError(io::Error::other(error))));
        let mut run = Run {
            program: bpf::number(self.programs.fd(hook)?),
            size_in: number(packet.len())?,
            data_in: packet.as_ptr().expose_provenance() as u64,
            repeat: 1,
            flags: TEST_CHECKSUM_COMPLETE,
            ..Run::default()
        };
        // SAFETY: the kernel reads the packet, which outlives the call.
        match unsafe { bpf::call(TEST_RUN, &mut run) } {
            Ok(_) => Ok(Some(true)),
            // What is left does not have the sum that it should have by the program's account.
            Err(cause) if cause.raw_os_error() == Some(libc::EBADMSG) => Ok(Some(false)),
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(cause) => Err(failed(ProgramError::IOError(cause))),
        }
    }

    /// Runs a program so often on one packet, which it should leave as it is; how long one run takes, by the kernel's clock.
    pub fn time(&self, hook: Hook, packet: &[u8], context: Context, repeat: u32) -> Result<Duration, FastPathError> {
        let context = context.encode();
        let options =
            TestRunOptions { data_in: Some(packet), ctx_in: Some(&context), repeat, ..TestRunOptions::default() };
        let result = self.programs.look(hook)?.test_run(options);
        let failed = |cause| hook.failed(cause);
        Ok(result.map_err(failed)?.duration)
    }

    /// Attaches a program to an interface of the calling thread's network namespace.
    pub fn attach(&mut self, hook: Hook, interface: &str) -> Result<(), FastPathError> {
        let attach = |cause| FastPathError::Attach {
            program: hook.program(),
            interface: interface.to_owned(),
            cause: Box::new(cause),
        };
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        self.programs.get(hook)?.attach_with_options(interface, hook.direction(), options).map_err(attach)?;
        Ok(())
    }

    /// How many instructions the verifier went through, where the kernel says so (5.16).
    pub fn verified_instructions(&self, hook: Hook) -> Result<u32, FastPathError> {
        let failed = |cause| hook.failed(cause);
        let info = self.programs.look(hook)?.info().map_err(failed)?;
        let unknown = || ProgramError::IOError(io::Error::from(io::ErrorKind::Unsupported));
        info.verified_instruction_count().ok_or_else(|| failed(unknown()))
    }

    pub fn settings(&self) -> Result<Settings, FastPathError> {
        self.settings.get()
    }

    pub fn set(&mut self, settings: Settings) -> Result<(), FastPathError> {
        self.settings.set(settings)
    }

    pub fn put_peer(&mut self, base: Address, peer: Peer) -> Result<(), FastPathError> {
        self.peers.put(base, peer)
    }

    pub fn peer(&self, base: Address) -> Result<Option<Peer>, FastPathError> {
        self.peers.get(base)
    }

    pub fn put_peers(&mut self, bases: &[Address], peers: &[Peer]) -> Result<(), FastPathError> {
        self.peers.put_all(bases, peers).into_iter().collect()
    }

    pub fn remove_peer(&mut self, base: Address) -> Result<(), FastPathError> {
        self.peers.remove(base)
    }

    pub fn put_pod(&mut self, interface: u32, pod: PodInterface) -> Result<(), FastPathError> {
        self.pods.put(interface, pod)
    }

    pub fn remove_pod(&mut self, interface: u32) -> Result<(), FastPathError> {
        self.pods.remove(interface)
    }

    pub fn egress(&self, sent: Tuple) -> Result<Option<EgressFlow>, FastPathError> {
        self.egress.get(sent)
    }

    pub fn put_egress(&mut self, sent: Tuple, flow: EgressFlow) -> Result<(), FastPathError> {
        self.egress.put(sent, flow)
    }

    pub fn ingress(&self, arriving: Tuple) -> Result<Option<IngressFlow>, FastPathError> {
        self.ingress.get(arriving)
    }

    pub fn put_ingress(&mut self, arriving: Tuple, flow: IngressFlow) -> Result<(), FastPathError> {
        self.ingress.put(arriving, flow)
    }

    /// Forgets all flows.
    pub fn forget(&mut self) -> Result<(), FastPathError> {
        let known: Vec<_> = self.egress.entries().map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?;
        known.into_iter().try_for_each(|key| self.egress.remove(key))?;
        let known: Vec<_> = self.ingress.entries().map(|entry| entry.map(|(key, _)| key)).collect::<Result<_, _>>()?;
        known.into_iter().try_for_each(|key| self.ingress.remove(key))
    }

    /// Every counter's sum over all CPUs, by slot.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, FastPathError> {
        let array = aya::maps::PerCpuArray::try_from(&self.counters);
        let array = array.map_err(|cause| failed("open", COUNTERS_MAP, cause))?;
        Ok(Counter::ALL.into_iter().zip(sums(COUNTERS_MAP, &array)?).collect())
    }
}
