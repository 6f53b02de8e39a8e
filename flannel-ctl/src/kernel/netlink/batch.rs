//! Requests that go out as one datagram, written behind each other as they come.

use super::wire::Request;

/// How much fits in a datagram is for whoever fills it to know.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each request begins.
    starts: Vec<usize>,
}

impl Batch {
    pub(crate) fn push(&mut self, request: &Request) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(request.bytes());
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// For the next requests; keeps the room.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Adds flags to the last request.
    pub(crate) fn flag_last(&mut self, flags: u16) {
        if let Some(start) = self.starts.last() {
            let place = &mut self.bytes[start + 6..start + 8];
            let all = u16::from_ne_bytes([place[0], place[1]]) | flags;
            place.copy_from_slice(&all.to_ne_bytes());
        }
    }

    /// Numbers the requests from `first` on.
    pub(crate) fn number(&mut self, first: u32) {
        for (start, sequence) in self.starts.iter().zip(first..) {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    pub(crate) fn datagram(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Request> for Batch {
    fn from(request: Request) -> Self {
        Self { bytes: request.into_bytes(), starts: vec![0] }
    }
}

impl<'a> FromIterator<&'a Request> for Batch {
    fn from_iter<I: IntoIterator<Item = &'a Request>>(requests: I) -> Self {
        let mut batch = Self::default();
        requests.into_iter().for_each(|request| batch.push(request));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::wire::messages;

    #[test]
    fn requests_are_numbered_in_their_order_and_the_last_is_flagged() {
        let request = |kind| Request::new(kind, 0, &[0; 12]).text(3, "eth0");
        let mut batch: Batch = [request(16), request(24), request(28)].iter().collect();
        batch.number(7);
        batch.flag_last(4);
        let read: Vec<_> = messages(batch.datagram()).map(|m| (m.kind, m.sequence, m.flags & 4)).collect();
        assert_eq!(read, [(16, 7, 0), (24, 8, 0), (28, 9, 4)]);
        batch.clear();
        batch.flag_last(4);
        assert_eq!((batch.len(), batch.datagram()), (0, &[][..]));
    }
}
