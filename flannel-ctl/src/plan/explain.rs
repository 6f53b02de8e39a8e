//! A change in words, for `plan`, logs and errors.

use crate::model::{Device, Object, Op, Route, Tun, Via, Wire};

/// "add route 10.5.48.0/24 through the overlay"
pub fn explain(op: &Op) -> String {
    match (&op.from, &op.to) {
        (None, Some(to)) => format!("add {}{}", op.key, describe(to)),
        (Some(from), Some(to)) => format!("change {}{}", op.key, change(from, to)),
        (Some(from), None) => format!("remove {}{}", op.key, describe(from)),
        (None, None) => format!("leave {}", op.key),
    }
}

fn change(from: &Object, to: &Object) -> String {
    match (from, to) {
        (Object::Device(from), Object::Device(to)) => device_change(from, to),
        (Object::Tun(from), Object::Tun(to)) => tun_change(from, to),
        (Object::Route(Route { via: was, protocol }), Object::Route(route)) if *was == route.via => {
            format!(" to our route protocol {} from {protocol}", route.protocol)
        }
        (Object::Attachment { mtu: Object::ODD_ATTACHMENT }, _) => {
            ", of which not all are there and this daemon's".into()
        }
        _ => format!(" from{} to{}", describe(from), describe(to)),
    }
}

fn device_change(from: &Device, to: &Device) -> String {
    let mut parts = Vec::new();
    let mut note = |what: &str, was: &dyn std::fmt::Display, is: &dyn std::fmt::Display| {
        let (was, is) = (was.to_string(), is.to_string());
        if was != is {
            parts.push(format!("{what} {was} to {is}"));
        }
    };
    note("VNI", &from.vni, &to.vni);
    note("port", &from.port, &to.port);
    note("MAC", &from.mac, &to.mac);
    note("MTU", &from.mtu, &to.mtu);
    note("uplink index", &from.uplink, &to.uplink);
    note("local address", &from.local, &to.local);
    note("learning", &from.learning, &to.learning);
    note("GBP", &from.gbp, &to.gbp);
    note("up", &from.up, &to.up);
    let how = if from.must_recreate(to) { " by making it anew" } else { "" };
    format!(" {}{how}: {}", to.name, parts.join(", "))
}

fn tun_change(from: &Tun, to: &Tun) -> String {
    let mut parts = Vec::new();
    if from.mtu != to.mtu {
        parts.push(format!("MTU {} to {}", from.mtu, to.mtu));
    }
    if from.up != to.up {
        parts.push(format!("up {} to {}", from.up, to.up));
    }
    format!(" {}: {}", to.name, parts.join(", "))
}

fn describe(object: &Object) -> String {
    match object {
        Object::Device(device) => format!(
            " {}: VNI {}, port {}, MAC {}, MTU {}, local {}",
            device.name, device.vni, device.port, device.mac, device.mtu, device.local
        ),
        Object::Tun(tun) => format!(" {}: TUN, MTU {}", tun.name, tun.mtu),
        Object::Forward(forward) => format!(" to {}", forward.public),
        Object::Engine(engine) => match engine.wire {
            Wire::Vxlan { vni, port, .. } => {
                format!(" on {}: VNI {vni}, port {port}, local {}", engine.device, engine.local)
            }
            Wire::Raw { port } => {
                format!(" on {}: flannel's udp wire, port {port}, local {}", engine.device, engine.local)
            }
        },
        Object::Setting(on) => if *on { ": on" } else { ": off" }.into(),
        Object::Address | Object::Guard | Object::Nexthop | Object::Attachment { mtu: 0 } => String::new(),
        Object::Filter(policy) => format!(
            " (masquerade for {}, forward for {}, guard {})",
            policy.masquerade.len(),
            policy.forward.len(),
            policy.guard.as_ref().map_or("off", |guard| if guard.judges_peers() { "on" } else { "for pods" })
        ),
        Object::FastPath(policy) => if policy.enabled { " (on)" } else { " (off)" }.into(),
        Object::FastPeer { outer, .. } => format!(" at {outer}"),
        Object::Attachment { mtu: Object::ODD_ATTACHMENT } => ", of which not all are there and this daemon's".into(),
        Object::Attachment { mtu } => format!(" (MTU {mtu})"),
        Object::Neighbour(mac) => format!(" at {mac}"),
        Object::Fdb(ip) => format!(" to {ip}"),
        Object::Route(route) => match route.via {
            Via::Overlay { .. } => " through the overlay".into(),
            Via::Device => " into the tunnel device".into(),
            Via::Direct { gateway } => format!(" via {gateway}"),
            Via::Blackhole => " to nowhere".into(),
            Via::Other => " to somewhere else".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Key, Place};

    #[test]
    fn attachments_that_are_not_right_show_no_made_up_mtu() {
        let words = |place, from: Option<u32>, to: Option<u32>| {
            let object = |mtu| Object::Attachment { mtu };
            explain(&Op { key: Key::Attachment(place), from: from.map(object), to: to.map(object) })
        };
        let odd = Some(Object::ODD_ATTACHMENT);
        let what = "of which not all are there and this daemon's";
        assert_eq!(
            words(Place::Uplink(2), odd, Some(0)),
            format!("change BPF programs of the uplink (interface 2), {what}")
        );
        assert_eq!(words(Place::Pod(7), odd, None), format!("remove BPF programs of pod interface 7, {what}"));
        assert_eq!(
            words(Place::Pod(7), Some(1450), Some(1430)),
            "change BPF programs of pod interface 7 from (MTU 1450) to (MTU 1430)"
        );
    }
}
