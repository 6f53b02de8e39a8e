//! What notices mean, caused by the commands that people use.

use std::sync::mpsc::{self, Receiver};

use nix::libc;

use super::*;
use crate::kernel::{
    Interpretation, Notice, monitor,
    netlink::{namespace::bridge, neighbour::Neighbour},
};

fn listen(lab: &Lab) -> Receiver<Notice> {
    let (notice_tx, notices) = mpsc::channel();
    monitor::spawn(lab.kernel.port(), move |notice| notice_tx.send(notice).is_ok()).unwrap();
    notices
}

/// Meanings of all that was said until now: up to the notice of a route that serves as a mark.
fn heard(lab: &mut Lab, notices: &Receiver<Notice>) -> Vec<Interpretation> {
    ip("route add 203.0.113.77/32 dev lo proto static");
    ip("route del 203.0.113.77/32 dev lo proto static");
    let mark: IpNet = "203.0.113.77/32".parse().unwrap();
    let mut meanings = Vec::new();
    loop {
        match notices.recv().unwrap() {
            Notice::Route { gone, route, .. } if route.dst == mark => {
                if gone {
                    return meanings;
                }
            }
            notice => match Kernel::interpret(&mut lab.kernel, notice) {
                Interpretation::Irrelevant => {}
                meaning => meanings.push(meaning),
            },
        }
    }
}

/// The same without what the uplink says of itself, which comes when its link has settled.
fn heard_of_ours(lab: &mut Lab, notices: &Receiver<Notice>) -> Vec<Interpretation> {
    let mut meanings = heard(lab, notices);
    meanings.retain(|meaning| !matches!(meaning, Interpretation::Uplink | Interpretation::Topology));
    meanings
}

/// The kernel collects carrier changes for up to a second (`net/core/link_watch.c`), and then says of the uplink what it has
/// to say; its link-local address comes after that, once nobody else has shown to have it.
fn uplink_settles() {
    let settled = || {
        let is_settled = |end: &str| {
            let link_local = ip(&format!("-6 address show dev {end} scope link"));
            let has_address = link_local.contains("inet6") && !link_local.contains("tentative");
            has_address && ip(&format!("link show dev {end}")).contains(" state UP ")
        };
        ["up0", "up0far"].into_iter().all(is_settled).then_some(())
    };
    xtask::lab::wait::until("the uplink to settle", xtask::lab::wait::LONG, settled).unwrap();
    // Waits for whatever changed the uplink, which holds the lock until it has told of it.
    ip("link set up0 up");
}

#[test]
fn what_others_do_to_our_objects_is_told_exactly_and_our_own_doings_are_not() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &[Family::V4], 1..=3);
        lab.converge(&lab.own(&[Family::V4]));
        let notices = listen(&lab);
        lab.converge(&wanted);
        // The kernel does not say who wrote forwarding entries.
        for meaning in heard_of_ours(&mut lab, &notices) {
            assert!(
                matches!(&meaning, Interpretation::Changed(key @ Key::Fdb(..), object) if wanted.get(key) == object.as_ref()),
                "{meaning:?}"
            );
        }

        let changed = |key, object| Interpretation::Changed(key, object);
        let gateway = [10, 0, 1, 0].into();
        ip("neigh del 10.0.1.0 dev flannel.7");
        assert!(heard_of_ours(&mut lab, &notices).contains(&changed(Key::Neighbour(gateway), None)));
        ip("neigh replace 10.0.2.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud permanent");
        let object = Object::Neighbour("02:00:00:00:00:99".parse().unwrap());
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Neighbour([10, 0, 2, 0].into()), Some(object))]);
        ip("neigh replace 10.0.2.0 lladdr 02:00:00:00:00:99 dev flannel.7 nud reachable");
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Neighbour([10, 0, 2, 0].into()), None)]);

        bridge(&format!("fdb del {} dev flannel.7 dst {} self", mac(1), public(Family::V4, 1)));
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Fdb(Family::V4, mac(1)), None)]);
        bridge(&format!("fdb replace {} dev flannel.7 dst 192.168.9.9 self permanent", mac(2)));
        let object = Object::Fdb("192.168.9.9".parse().unwrap());
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Fdb(Family::V4, mac(2)), Some(object))]);

        ip("route del 10.0.1.0/24");
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Route(v4(1)), None)]);
        ip("route replace 10.0.2.0/24 via 192.168.0.9 dev up0 proto static");
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(Key::Route(v4(2)), None)]);
        ip("addr add 10.9.9.9/32 dev flannel.7");
        let key = Key::Address(Family::V4, "10.9.9.9/32".parse().unwrap());
        assert_eq!(heard_of_ours(&mut lab, &notices), [changed(key, Some(Object::Address))]);
    });
}

#[test]
fn what_takes_others_along_silently_asks_for_a_full_look() {
    isolated(|| {
        let mut lab = lab();
        let wanted = mesh(&lab, &Family::ALL, 1..=3);
        lab.converge(&wanted);
        let notices = listen(&lab);
        for damage in [
            "link set flannel.7 down",
            "link set flannel-v6.7 mtu 1300",
            "link set flannel.7 address 02:00:00:00:00:77",
            "addr del 10.156.64.0/32 dev flannel.7",
            "nexthop flush protocol 102",
            "link del flannel-v6.7",
        ] {
            ip(damage);
            let meanings = heard(&mut lab, &notices);
            assert!(
                meanings.iter().any(|meaning| matches!(meaning, Interpretation::Resync(_))),
                "{damage}: {meanings:?}"
            );
            lab.converge(&wanted);
            let quiet = heard(&mut lab, &notices);
            let disturbing = |meaning: &&Interpretation| match meaning {
                Interpretation::Changed(key, object) => wanted.get(key) != object.as_ref(),
                Interpretation::Topology | Interpretation::Pods | Interpretation::Irrelevant => false,
                Interpretation::Resync(_) | Interpretation::Uplink => true,
            };
            assert_eq!(quiet.iter().find(disturbing), None, "{damage}: mending it looked like damage");
        }
    });
}

#[test]
fn the_uplink_is_followed() {
    isolated(|| {
        let mut lab = lab();
        lab.converge(&mesh(&lab, &[Family::V4], 1..=3));
        let notices = listen(&lab);
        ip("link set up0 mtu 1400");
        assert!(heard(&mut lab, &notices).contains(&Interpretation::Uplink));
        ip("addr add 192.168.200.9/16 dev up0");
        assert!(heard(&mut lab, &notices).contains(&Interpretation::Uplink));
        ip("addr del 192.168.200.9/16 dev up0");
        assert!(heard(&mut lab, &notices).contains(&Interpretation::Uplink));
        ip("link set up0 down");
        let meanings = heard(&mut lab, &notices);
        assert!(meanings.iter().any(|meaning| matches!(meaning, Interpretation::Resync(_))), "{meanings:?}");
        ip("link set up0 up");
        let meanings = heard(&mut lab, &notices);
        assert!(meanings.iter().any(|meaning| matches!(meaning, Interpretation::Resync(_))), "{meanings:?}");
        ip("link del up0");
        assert!(heard(&mut lab, &notices).contains(&Interpretation::Uplink));
    });
}

#[test]
fn what_concerns_neither_us_nor_the_way_to_peers_is_irrelevant() {
    isolated(|| {
        let mut lab = lab();
        lab.converge(&mesh(&lab, &[Family::V4], 1..=3));
        ip("link add cni0 type bridge");
        ip("link set cni0 up");
        uplink_settles();
        let notices = listen(&lab);
        ip("link add pod type veth peer name podfar");
        ip("link set pod master cni0");
        ip("link set pod up");
        ip("addr add 10.156.64.1/24 dev cni0");
        ip("neigh add 10.156.64.7 lladdr 02:00:00:00:00:01 dev cni0 nud reachable");
        ip("route add 10.156.64.9/32 dev cni0");
        // As each interface gets one by itself, with a route, some time after it went up.
        ip("-6 address add fe80::77/64 dev cni0 nodad");
        assert_eq!(heard(&mut lab, &notices), []);
        ip("route add 8.8.8.0/24 via 192.168.0.9");
        assert_eq!(heard(&mut lab, &notices), [Interpretation::Topology]);
    });
}

#[test]
fn lost_notices_ask_for_a_full_look() {
    isolated(|| {
        let mut lab = lab();
        assert!(matches!(Kernel::interpret(&mut lab.kernel, Notice::Overflow), Interpretation::Resync(_)));
    });
}

/// As kernels before 6.13 follow each forwarding entry that is put with.
#[test]
fn a_notice_of_a_forwarding_entry_that_does_not_say_where_it_leads_changes_nothing() {
    isolated(|| {
        let mut lab = lab();
        lab.converge(&mesh(&lab, &[Family::V4], 1..=1));
        let [bridge, permanent] = [libc::AF_BRIDGE, libc::NUD_PERMANENT.into()].map(|number| number.to_le_bytes()[0]);
        let mut payload = [bridge, 0, 0, 0, 0, 0, 0, 0, permanent, 0, 2, 0, 10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0];
        payload[4..8].copy_from_slice(&lab.kernel.devices()[0].to_ne_bytes());
        let neighbour = Neighbour::read(&payload).unwrap();
        assert!(neighbour.is_permanent() && neighbour.mac == Some(Mac([2, 0, 0, 0, 0, 1])), "{neighbour:?}");
        let meaning = Kernel::interpret(&mut lab.kernel, Notice::Neighbour { gone: false, neighbour });
        assert_eq!(meaning, Interpretation::Irrelevant);
    });
}
