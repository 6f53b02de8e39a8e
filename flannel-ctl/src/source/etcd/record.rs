//! From etcd's key and value to a [`LeaseRecord`], without believing any of it.

use etcd_client::KeyValue;

use crate::{model::LeaseRecord, source::MAX_VALUE};

/// A key longer than this is shown by its beginning and a checksum.
const MAX_KEY: usize = 128;

/// `skip`: length of `<prefix>/subnets/`.
pub(super) fn read(kv: &KeyValue, skip: usize) -> LeaseRecord {
    let value = kv.value();
    LeaseRecord {
        key: name(kv.key().get(skip..).unwrap_or_default()),
        value: value[..value.len().min(MAX_VALUE + 1)].to_vec(),
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        lease_id: kv.lease(),
    }
}

/// A text for the key: itself where it can be, otherwise bounded, readable, and different for
/// different keys.
pub(super) fn name(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if text.len() <= MAX_KEY => text.to_owned(),
        _ => {
            let start: String = String::from_utf8_lossy(&key[..key.len().min(MAX_KEY)]).chars().take(48).collect();
            format!("{start}\u{2026} ({} bytes, checksum {:016x})", key.len(), fnv1a(key))
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subnet;

    #[test]
    fn hostile_keys_stay_short_and_apart() {
        let long = [b"10.5.1.0-24".as_slice(), &[b'x'; 4096]].concat();
        let longer = [b"10.5.1.0-24".as_slice(), &[b'x'; 4097]].concat();
        for key in [long.as_slice(), &longer, b"10.5.1.0-24\xff", b"10.5.1.0-24\xfe"] {
            let text = name(key);
            assert!(text.len() < 300 && Subnet::from_key(&text).is_err(), "{text}");
        }
        assert_ne!(name(&long), name(&longer));
        assert_ne!(name(b"\xff"), name(b"\xfe"));
        assert_eq!(name(b"10.5.1.0-24"), "10.5.1.0-24");
    }
}
