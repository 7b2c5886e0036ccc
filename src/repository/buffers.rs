//! Buffers that are used again and again: to get fresh memory from the system for each chunk would cost about as
//! much as to hash it.

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

/// Empty buffers of one size, between who fills them and who is done with them.
#[derive(Debug, Clone)]
pub struct Buffers {
    size: usize,
    empty: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
}

impl Buffers {
    /// Keeps at most `count` buffers of `size` bytes for later.
    pub fn new(count: usize, size: usize) -> Self {
        let (back, empty) = bounded(count);
        Buffers { size, empty, back }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(self.size))
    }

    /// Takes a buffer back, if it is of about the size that is wanted, and there are not enough.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if (self.size..=2 * self.size).contains(&buffer.capacity()) {
            buffer.clear();
            let _ = self.back.try_send(buffer);
        }
    }

    /// The content of a buffer, which comes back when nobody reads it any more.
    pub fn share(&self, content: Vec<u8>) -> Bytes {
        Bytes::from_owner(Shared { content, buffers: self.clone() })
    }
}

/// A buffer that is read.
struct Shared {
    content: Vec<u8>,
    buffers: Buffers,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.content));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_comes_back_empty() {
        let buffers = Buffers::new(1, 1000);
        let mut one = buffers.take();
        one.extend_from_slice(b"one");
        let place = one.as_ptr();
        let read = buffers.share(one);
        let part = read.slice(1..);
        drop(read);
        assert_eq!(part, "ne".as_bytes());
        let other = buffers.take();
        assert_ne!(other.as_ptr(), place, "it is still read");
        drop(part);
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        buffers.give(vec![0; 10]);
        buffers.give(vec![0; 10_000]);
        assert_eq!(buffers.take().capacity(), 1000, "others are not kept");
    }
}
