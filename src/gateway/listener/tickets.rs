//! Session tickets wait for the first answer: sent alone they are a packet, and a wakeup of the client, for nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// What the handshake ended with and the client does not wait for.
#[derive(Default)]
pub(super) struct Tickets {
    records: Vec<u8>,
    /// Nothing was there to go with; what the client sent with its Finished is looked at before that is believed.
    late: bool,
}

/// A record's type, version and length (RFC 8446 section 5.1).
const HEADER: usize = 5;
const APPLICATION_DATA: u8 = 23;
/// An alert is encrypted to less than this, a ticket to more.
const LEAST: usize = 64;
/// More waits for nobody.
const MOST: usize = 8 * 1024;

impl Tickets {
    /// Keeps these records where each can only be a ticket; returns how long they are. Of what answers a client's last flight
    /// in TLS 1.3 nothing else begins as application data does, but for alerts, which are short.
    pub(super) fn keep(&mut self, records: &[IoSlice<'_>]) -> Option<usize> {
        let length = records.iter().map(|record| record.len()).sum::<usize>();
        if length == 0
            || self.records.len() + length > MOST
            || !records.iter().all(|record| record.is_empty() || is_ticket(record))
        {
            return None;
        }
        records.iter().for_each(|record| self.records.extend_from_slice(record));
        Some(length)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Sends them by themselves, where the connection has nothing to say at the next look either. What is wrong with the socket
    /// shows itself to who reads or writes next.
    pub(super) fn poll_late(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.late, true) {
            let _ = self.poll_send(io, cx);
        } else {
            cx.waker().wake_by_ref();
        }
    }

    /// Sends them.
    pub(super) fn poll_send(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.records.is_empty() {
            let sent = ready!(Pin::new(&mut *io).poll_write(cx, &self.records))?;
            self.sent(sent)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends them with what follows, in one; returns how much of that was taken.
    pub(super) fn poll_send_with(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while !self.records.is_empty() {
            let both = [IoSlice::new(&self.records), IoSlice::new(bytes)];
            let sent = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &both))?;
            if let Some(taken) = self.sent(sent)?.filter(|taken| *taken > 0) {
                return Poll::Ready(Ok(taken));
            }
        }
        Pin::new(io).poll_write(cx, bytes)
    }

    /// How much was sent beyond the tickets; `None` while some of them are left.
    fn sent(&mut self, sent: usize) -> io::Result<Option<usize>> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let beyond = sent.checked_sub(self.records.len());
        match beyond {
            Some(_) => self.records = Vec::new(),
            None => drop(self.records.drain(..sent)),
        }
        Ok(beyond)
    }
}

/// One whole record that is a ticket.
fn is_ticket(record: &[u8]) -> bool {
    let Some((&[kind, _, _, high, low], payload)) = record.split_first_chunk::<HEADER>() else { return false };
    kind == APPLICATION_DATA && payload.len() == usize::from(u16::from_be_bytes([high, low])) && payload.len() > LEAST
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn record(kind: u8, length: u8) -> Vec<u8> {
        [&[kind, 3, 3, 0, length][..], &vec![kind; length.into()]].concat()
    }

    fn kept(records: &[Vec<u8>]) -> Option<usize> {
        let slices: Vec<_> = records.iter().map(|record| IoSlice::new(record)).collect();
        Tickets::default().keep(&slices)
    }

    #[test]
    fn nothing_but_tickets_is_kept() {
        assert_eq!(kept(&[record(23, 98)]), Some(103));
        assert_eq!(kept(&[record(23, 98), Vec::new(), record(23, 120)]), Some(228));
        let (hello, alert, cut) = (record(22, 98), record(23, 19), record(23, 98)[..50].to_vec());
        for other in [hello, alert, record(21, 2), cut, [record(23, 98), record(23, 98)].concat(), Vec::new()] {
            assert_eq!(kept(std::slice::from_ref(&other)), None, "{other:?}");
            if !other.is_empty() {
                assert_eq!(kept(&[record(23, 98), other.clone()]), None, "{other:?}");
            }
        }
        let mut many = Tickets::default();
        let ticket = record(23, 250);
        let held = (0..100).filter_map(|_| many.keep(&[IoSlice::new(&ticket)])).sum::<usize>();
        assert!(held == many.records.len() && held <= MOST);
    }

    #[tokio::test]
    async fn they_come_first_and_whole_however_little_the_socket_takes() {
        let mut cx = Context::from_waker(Waker::noop());
        let ticket = record(23, 98);
        for (room, follows) in
            [(1, true), (7, true), (102, true), (103, true), (104, true), (1000, true), (1, false), (200, false)]
        {
            let (mut ours, mut theirs) = tokio::io::duplex(room);
            let mut tickets = Tickets::default();
            tickets.keep(&[IoSlice::new(&ticket)]).unwrap();
            let mut rest: &[u8] = if follows { b"what follows" } else { b"" };
            let (mut came, whole) = (Vec::new(), [&ticket, rest].concat());
            while came.len() < whole.len() {
                // Who is polled by hand must not run out of its turn.
                tokio::task::yield_now().await;
                if rest.is_empty() {
                    let _ = tickets.poll_send(&mut ours, &mut cx).map(Result::unwrap);
                } else if let Poll::Ready(taken) = tickets.poll_send_with(&mut ours, &mut cx, rest) {
                    rest = &rest[taken.unwrap()..];
                }
                let mut piece = [0; 64];
                let read = theirs.read(&mut piece).await.unwrap();
                came.extend_from_slice(&piece[..read]);
            }
            assert!(came == whole && tickets.is_empty(), "{room} at a time");
        }
    }
}
