//! PURE: the entries of a table as one number.

use std::hash::BuildHasher as _;

use foldhash::quality::FixedState;

use crate::model::{Key, Object};

/// Equal for equal entries, in whatever order they came. That it is equal for others is no more likely than that
/// two random numbers of 64 bits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TableSum {
    entries: usize,
    sum: u64,
}

impl TableSum {
    pub(super) fn add(&mut self, key: &Key, object: &Object) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(FixedState::default().hash_one((key, object)));
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.entries += other.entries;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Mac};

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let entry =
            |n: u8, outer: u8| (Key::Fdb(Family::V4, Mac([2, 0, 0, 0, 0, n])), Object::Fdb([10, 0, 0, outer].into()));
        let sum = |entries: &[(Key, Object)]| {
            let (front, back) = entries.split_at(entries.len() / 2);
            let mut whole = TableSum::default();
            for half in [front, back] {
                let mut sum = TableSum::default();
                half.iter().for_each(|(key, object)| sum.add(key, object));
                whole.merge(sum);
            }
            whole
        };
        let right = sum(&[entry(1, 1), entry(2, 2), entry(3, 3)]);
        assert_eq!(right, sum(&[entry(3, 3), entry(1, 1), entry(2, 2)]));
        for wrong in [
            &[entry(1, 1), entry(2, 2)][..],
            &[entry(1, 1), entry(2, 3), entry(3, 2)],
            &[entry(1, 1), entry(2, 2), entry(4, 3)],
            &[entry(1, 1), entry(2, 2), entry(3, 3), entry(3, 3)],
        ] {
            assert_ne!(right, sum(wrong), "{wrong:?}");
        }
    }
}
