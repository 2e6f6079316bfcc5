//! Buffers that only those hold who have something in them: few are in use at a time, and these stay in the processor's cache.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;

use tokio::io::{AsyncRead, ReadBuf};

use crate::records::{MOST, SEALED};

const RECORDS: usize = 8;
/// The most that is read at once.
const PIECE: usize = RECORDS * MOST;
/// All of that sealed, after what a handshake left to be sent.
const LENGTH: usize = RECORDS * SEALED + 8 * 1024;

thread_local! {
    /// The last to come back is the first to be lent: it is the warmest.
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Holds no memory until something is put in.
#[derive(Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.filled]
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// What `put` says it wrote counts as filled.
    pub fn put<E>(&mut self, put: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        self.borrow();
        self.filled += put(&mut self.bytes[self.filled..])?;
        Ok(())
    }

    pub fn drop_front(&mut self, length: usize) {
        if length > 0 {
            self.bytes.copy_within(length..self.filled, 0);
            self.filled -= length;
            self.rest();
        }
    }

    pub fn clear(&mut self) {
        self.filled = 0;
        self.rest();
    }

    /// One read, behind what is there; 0 at the end.
    pub async fn receive(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        poll_fn(|cx| {
            self.borrow();
            let mut free = ReadBuf::new(&mut self.bytes[self.filled..PIECE]);
            let polled = Pin::new(&mut *stream).poll_read(cx, &mut free);
            let came = free.filled().len();
            self.filled += came;
            self.rest();
            polled.map_ok(|()| came)
        })
        .await
    }

    fn borrow(&mut self) {
        if self.bytes.is_empty() {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.bytes = spare.unwrap_or_else(|| vec![0; LENGTH].into_boxed_slice());
        }
    }

    /// Gives the memory back where there is nothing in it.
    fn rest(&mut self) {
        if self.filled == 0 && !self.bytes.is_empty() {
            let bytes = mem::take(&mut self.bytes);
            SPARE.with_borrow_mut(|spare| spare.push(bytes));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}
