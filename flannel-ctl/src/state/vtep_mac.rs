//! The VXLAN device's address: computed and not drawn, so that restart, reboot and the loss of
//! the device all lead back to the address that the lease publishes.

use crate::model::{Family, Mac};

use super::NodeId;

/// The address of this node's VXLAN device for one network identifier and family: locally
/// administered, unicast, the same for ever. PURE.
pub fn vtep_mac(node: NodeId, vni: u32, family: Family) -> Mac {
    let family = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let mut hash = FNV_OFFSET;
    for byte in node.as_bytes().iter().copied().chain(vni.to_be_bytes()).chain([family]) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    }
    let mut octets = [0; 6];
    octets.copy_from_slice(&scatter(hash).to_be_bytes()[2..]);
    Mac(octets).local()
}

/// 64-bit FNV-1a: spelled out, because the standard library's hasher may change.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Spreads every input bit over the 48 that are used (the finaliser of MurmurHash3).
const fn scatter(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn never_changes() {
        let node = NodeId::from_bytes(*b"0123456789abcdef");
        assert_eq!(vtep_mac(node, 1, Family::V4).to_string(), "02:92:0b:50:e9:1c");
        assert_eq!(vtep_mac(node, 1, Family::V6).to_string(), "5e:ee:d7:6b:11:a9");
    }

    #[test]
    fn differs_by_node_identifier_and_family_and_is_always_usable() {
        let mut seen = BTreeSet::new();
        for node in 0..5000u128 {
            for (vni, family) in [(1, Family::V4), (1, Family::V6), (2, Family::V4)] {
                let mac = vtep_mac(NodeId::from_bytes(node.to_be_bytes()), vni, family);
                assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac}");
                assert!(seen.insert(mac), "{mac} twice");
            }
        }
    }
}
