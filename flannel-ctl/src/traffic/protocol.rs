//! IP protocols by name and number.

const PROTOCOLS: [(&str, u8); 4] = [("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58)];

/// Of those that have a name here.
pub fn number(name: &str) -> Option<u8> {
    PROTOCOLS.into_iter().find(|(known, _)| *known == name).map(|(_, number)| number)
}

/// `tcp`, or `None` for those that have no name here.
pub fn name(number: u8) -> Option<&'static str> {
    PROTOCOLS.into_iter().find(|(_, known)| *known == number).map(|(name, _)| name)
}
