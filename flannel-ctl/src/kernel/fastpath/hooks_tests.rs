//! Clsact filters, which this kernel has beside its links.

use std::path::PathBuf;

use super::*;
use crate::kernel::netlink::namespace::{ip, isolated};

const NOWHERE: Indexes = Indexes { v4: 0, v6: 0 };

fn tc(args: &str) -> String {
    let output = std::process::Command::new("tc").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "tc {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn open(directory: &Path) -> FastPath {
    let fast = FastPath::open(directory, Sizes { flows: 1024, peers: 16, pods: 16 }).unwrap();
    FastPath { hooks: Hooks::Filters, ..fast }
}

fn attached(fast: &FastPath, place: Place) -> Option<Object> {
    let mut state = State::new();
    fast.observe(NOWHERE, &mut state).unwrap();
    state.remove(&Key::Attachment(place))
}

fn names(hook: &str) -> (usize, usize) {
    let shown = tc(&format!("filter show dev v0 {hook}"));
    (shown.matches(" flannel-ctl/pod_").count(), shown.matches("handle 0x1 flannel-ctl/").count())
}

/// In a namespace with a pod's interface, v0; with a directory for pins.
fn at_a_pod(name: &'static str, test: impl FnOnce(&Path, Place) + Send + 'static) {
    if !EMBEDDED {
        assert!(std::env::var_os("CI").is_none(), "built without the BPF programs");
        eprintln!("SKIPPED: built without the BPF programs");
        return;
    }
    isolated(move || {
        ip("link add v0 mtu 1450 up type veth peer name v1");
        let place = Place::Pod(nix::net::if_::if_nametoindex("v0").unwrap());
        test(&PathBuf::from(format!("/sys/fs/bpf/{name}-{}", std::process::id())), place);
    });
}

#[test]
fn filters_are_replaced_in_place_and_others_are_left_alone() {
    at_a_pod("filters", |directory, place| {
        let wanted = Object::Attachment { mtu: 1450 };
        let put = Op { key: Key::Attachment(place), from: None, to: Some(wanted.clone()) };

        let mut fast = open(directory);
        assert_eq!(attached(&fast, place), None);
        fast.apply(&put, NOWHERE).unwrap();
        assert_eq!(attached(&fast, place), Some(wanted.clone()));
        for hook in ["ingress", "egress"] {
            tc(&format!("filter add dev v0 {hook} pref 7 protocol all u32 match u32 1 0xffffffff flowid 1:1"));
        }

        // The next daemon: other programs in the same places.
        drop(fast);
        let mut fast = open(directory);
        assert_ne!(attached(&fast, place), Some(wanted.clone()), "an older program is seen as such");
        fast.apply(&put, NOWHERE).unwrap();
        assert_eq!(attached(&fast, place), Some(wanted.clone()));
        assert_eq!([names("ingress"), names("egress")], [(1, 1); 2]);

        tc("filter del dev v0 egress pref 60888");
        assert_ne!(attached(&fast, place), Some(wanted.clone()), "half of it is not it");
        fast.apply(&put, NOWHERE).unwrap();
        assert_eq!(attached(&fast, place), Some(wanted));

        fast.apply(&Op { key: Key::Attachment(place), from: None, to: None }, NOWHERE).unwrap();
        assert_eq!(attached(&fast, place), None);
        for hook in ["ingress", "egress"] {
            assert_eq!(names(hook), (0, 0));
            assert!(tc(&format!("filter show dev v0 {hook}")).contains("u32"), "others' are left alone");
            tc(&format!("filter del dev v0 {hook} pref 7"));
        }
        fast.apply(&put, NOWHERE).unwrap();
        let removed = FastPath::remove(directory).unwrap();
        assert!(removed.iter().any(|what| what == "the BPF filters of 1 interfaces"), "{removed:?}");
        assert!(!tc("qdisc show dev v0").contains("clsact"));
        assert!(!directory.exists());
    });
}

#[test]
fn who_traces_takes_the_place_of_filters_and_gives_it_back() {
    at_a_pod("traced", |directory, place| {
        let wanted = Object::Attachment { mtu: 1450 };
        let mut fast = open(directory);
        fast.apply(&Op { key: Key::Attachment(place), from: None, to: Some(wanted.clone()) }, NOWHERE).unwrap();
        let ours = clsact::filters().unwrap();

        let tracing = Tracing::start(directory, bytemuck::Zeroable::zeroed()).unwrap();
        assert_eq!(tracing.attachments(), 2);
        let (theirs, same) = (clsact::filters().unwrap(), |(a, b): (&(_, _, _), &(_, _, _))| a.2 == b.2);
        assert_eq!(theirs.len(), ours.len());
        assert!(!theirs.iter().zip(&ours).any(same), "{ours:?}, then {theirs:?}");
        assert_eq!(attached(&fast, place), Some(wanted), "no accident");

        drop(tracing);
        assert_eq!(clsact::filters().unwrap(), ours);
        drop(fast);
        FastPath::remove(directory).unwrap();
    });
}
