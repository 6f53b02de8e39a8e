//! Super-packets on their way out: cut, and put together to trains as long as one call takes. Pure.
//!
//! A TCP super-packet of 64 KB has a few segments more than fit into one UDP train, tunnel headers and all. A call costs as much as copying half of
//! the train does, so these few wait for the next super-packet, if that is there already and goes the same way.

use super::{
    Wire,
    packet::{
        segment::{CutError, Cutter},
        virtio::VirtioHeader,
    },
    send::{MAX_OCTETS, MAX_TRAIN, Way},
};
use crate::model::{Family, Mac};

/// One queue's.
#[derive(Debug)]
pub(super) struct Cuttings {
    wire: Wire,
    cutter: Cutter,
    left: Option<Train>,
}

/// Datagrams at the beginning of the cutter's memory, fewer than one call takes, and none shorter than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Train {
    way: Way,
    /// Octets of each.
    size: usize,
    octets: usize,
}

impl Cuttings {
    pub(super) fn new(wire: Wire) -> Self {
        Self { wire, cutter: Cutter::new(), left: None }
    }

    /// Cuts a super-packet for a peer. What makes whole trains goes to `send`, and all of it if nothing can follow: way, datagrams one
    /// behind the other, octets of each but the last. Whoever has no other super-packet calls [`Cuttings::flush`] then.
    pub(super) fn take(
        &mut self,
        (header, packet): (&VirtioHeader, &[u8]),
        (way, peer, family): (Way, Mac, Family),
        mut send: impl FnMut(Way, &[u8], usize),
    ) -> Result<(), CutError> {
        let before = self.left.map_or(0, |left| left.octets);
        let mut segments = self.cutter.cut_behind(before, header, packet, self.wire.room())?;
        for (room, _) in segments.iter_mut() {
            self.wire.write(room, peer, family);
        }
        let (size, end) = (segments.octets(), before + segments.total());
        let mut begin = 0;
        if self.left.is_some_and(|left| (left.way, left.size) != (way, size)) {
            self.flush(&mut send);
            begin = before;
        }
        let most = (MAX_OCTETS / size).clamp(1, MAX_TRAIN) * size;
        let closed = !(end - begin).is_multiple_of(size);
        while end - begin >= most || closed && begin < end {
            let train = begin..end.min(begin + most);
            begin = train.end;
            send(way, self.cutter.octets(train), size);
        }
        self.cutter.keep(begin..end);
        self.left = (begin < end).then_some(Train { way, size, octets: end - begin });
        Ok(())
    }

    /// What was left.
    pub(super) fn flush(&mut self, mut send: impl FnMut(Way, &[u8], usize)) {
        if let Some(Train { way, size, octets }) = self.left.take() {
            send(way, self.cutter.octets(0..octets), size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::packet::testing::Packet, *};

    const WIRE: Wire = Wire::Vxlan { vni: 1, port: 8472, mac: Mac([2, 0, 0, 0, 0, 1]) };
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const ONE: Way = Way { to: std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), hash: 1, tos: 0 };

    #[derive(Default)]
    struct Sent {
        trains: Vec<(Way, usize, usize)>,
        /// Inner packets.
        packets: Vec<Vec<u8>>,
    }

    impl Sent {
        fn send(&mut self, way: Way, row: &[u8], size: usize) {
            self.trains.push((way, size, row.len()));
            self.packets.extend(row.chunks(size).map(|one| one[WIRE.room()..].to_vec()));
        }

        fn take(&mut self, cuttings: &mut Cuttings, packet: &Packet, size: u16, way: Way) {
            let (header, octets) = (packet.virtio(size), packet.partial());
            let to = (way, PEER, Family::V4);
            cuttings.take((&header, &octets), to, |way, row, size| self.send(way, row, size)).unwrap();
        }
    }

    fn packet(payload: usize, sequence: u32) -> Packet {
        Packet { payload: vec![7; payload], sequence, ..Packet::default() }
    }

    #[test]
    fn what_one_call_has_no_room_for_goes_with_the_next_super_packet() {
        let (mut cuttings, mut sent) = (Cuttings::new(WIRE), Sent::default());
        let packets: Vec<Packet> = (0..8).map(|at| packet(46 * 1398, at)).collect();
        for packet in &packets {
            sent.take(&mut cuttings, packet, 1398, ONE);
        }
        assert_eq!(sent.trains, [(ONE, 1472, 44 * 1472); 8], "44 datagrams each");
        cuttings.flush(|way, row, size| sent.send(way, row, size));
        assert_eq!(sent.trains[8..], [(ONE, 1472, 16 * 1472)], "two of each were left");
        let wanted: Vec<Vec<u8>> = packets.iter().flat_map(|packet| packet.train(1398)).collect();
        assert!(sent.packets == wanted, "all that was cut, in order");
        cuttings.flush(|_, _, _| panic!("nothing is left"));
    }

    #[test]
    fn nothing_follows_a_shorter_one() {
        let (mut cuttings, mut sent) = (Cuttings::new(WIRE), Sent::default());
        let packets = [packet(2000, 1), packet(46 * 1398 + 1, 2)];
        sent.take(&mut cuttings, &packets[0], 1398, ONE);
        assert_eq!(sent.trains, [(ONE, 1472, 2000 + 2 * 74)]);
        sent.take(&mut cuttings, &packets[1], 1398, ONE);
        assert_eq!(sent.trains[1..], [(ONE, 1472, 44 * 1472), (ONE, 1472, 2 * 1472 + 75)]);
        assert!(sent.packets == packets.map(|packet| packet.train(1398)).concat());
    }

    #[test]
    fn what_goes_another_way_or_is_of_another_size_goes_by_itself() {
        for (way, size) in [(Way { hash: 2, ..ONE }, 1000), (Way { tos: 3, ..ONE }, 1000), (ONE, 900)] {
            let (mut cuttings, mut sent) = (Cuttings::new(WIRE), Sent::default());
            let packets = [packet(3000, 1), packet(usize::from(size) * 2, 2)];
            sent.take(&mut cuttings, &packets[0], 1000, ONE);
            assert_eq!(sent.trains, []);
            sent.take(&mut cuttings, &packets[1], size, way);
            assert_eq!(sent.trains, [(ONE, 1074, 3 * 1074)], "what came before it goes first");
            cuttings.flush(|way, row, size| sent.send(way, row, size));
            let size = usize::from(size) + 74;
            assert_eq!(sent.trains[1..], [(way, size, 2 * size)]);
            assert!(sent.packets == [packets[0].train(1000), packets[1].train(size - 74)].concat());
        }
    }

    #[test]
    fn what_cannot_be_cut_leaves_the_rest_as_it_is() {
        let (mut cuttings, mut sent) = (Cuttings::new(WIRE), Sent::default());
        let packet = packet(3000, 1);
        sent.take(&mut cuttings, &packet, 1000, ONE);
        let to = (ONE, PEER, Family::V4);
        cuttings.take((&packet.virtio(1000), &[0; 100]), to, |_, _, _| ()).unwrap_err();
        cuttings.flush(|way, row, size| sent.send(way, row, size));
        assert!(sent.packets == packet.train(1000));
    }
}
