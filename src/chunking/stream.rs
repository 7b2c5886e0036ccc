//! Cuts files whose content may shift: FastCDC, its gear seeded from a key of the repository.

use std::borrow::Cow;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use repo_format::config::Chunking;
use repo_format::keys::NamingKeys;

/// Cuts one file.
#[derive(Debug)]
pub struct StreamCutter {
    minimum: usize,
    average: usize,
    maximum: usize,
    masks: (u64, u64),
    gear: (Cow<'static, [u64]>, Cow<'static, [u64]>),
    buffer: Vec<u8>,
}

impl StreamCutter {
    /// A cutter at the beginning of a file.
    pub fn new(keys: &NamingKeys, chunking: &Chunking) -> Self {
        let average = chunking.stream_average as usize;
        StreamCutter {
            minimum: chunking.stream_minimum as usize,
            average,
            maximum: chunking.stream_maximum as usize,
            masks: select_masks(average, Normalization::Level1),
            gear: get_gear_with_seed(keys.gear_seed),
            buffer: Vec::new(),
        }
    }

    /// Adds the next bytes of the file.
    pub fn bytes(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Vec<u8>)) {
        while !bytes.is_empty() {
            let (head, tail) =
                bytes.split_at(bytes.len().min(2 * self.maximum - self.buffer.len()));
            self.buffer.extend_from_slice(head);
            bytes = tail;
            // Only with a whole maximum at hand is the cut the same as in the whole file.
            self.cut_while(|left, maximum| left >= maximum, &mut emit);
        }
    }

    /// Ends the file.
    pub fn end(&mut self, mut emit: impl FnMut(Vec<u8>)) {
        self.cut_while(|left, _| left > 0, &mut emit);
    }

    fn cut_while(&mut self, enough: impl Fn(usize, usize) -> bool, emit: &mut impl FnMut(Vec<u8>)) {
        let mut start = 0;
        while let Some(rest) = self.buffer.get(start..)
            && enough(rest.len(), self.maximum)
        {
            let length = self.cut(rest).clamp(1, rest.len());
            emit(rest.get(..length).unwrap_or(rest).to_vec());
            start += length;
        }
        self.buffer.drain(..start);
    }

    fn cut(&self, bytes: &[u8]) -> usize {
        let ((mask_s, mask_l), (gear, gear_shifted)) = (self.masks, &self.gear);
        cut_gear(
            bytes,
            self.minimum,
            self.average,
            self.maximum,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
            gear,
            gear_shifted,
        )
        .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::keys::{KeyRing, MasterSecrets};

    #[test]
    fn cuts_do_not_depend_on_how_bytes_arrive_and_follow_an_insertion() {
        let ring = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        let mut file = vec![0; 9 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut file);
        let cut = |file: &[u8], step: usize| {
            let mut chunks = vec![];
            let mut cutter = StreamCutter::new(ring.naming(), &Chunking::default());
            for bytes in file.chunks(step) {
                cutter.bytes(bytes, |chunk| chunks.push(chunk));
            }
            cutter.end(|chunk| chunks.push(chunk));
            chunks
        };
        let whole = cut(&file, file.len());
        assert!(whole.concat() == file);
        assert_eq!(cut(&file, 1000).len(), whole.len());
        assert!(cut(&file, 7777) == whole);
        file.splice(100..100, *b"inserted");
        let shifted = cut(&file, file.len());
        let new = shifted.iter().filter(|chunk| !whole.contains(chunk)).count();
        assert!(new <= 2, "{new} of {} chunks are new", shifted.len());
    }

    #[test]
    fn cuts_are_those_of_the_golden_vectors() {
        let text = include_str!("../../repo-format/vectors/fastcdc.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let ring = KeyRing::new(&MasterSecrets::random().unwrap()).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let number = |name: &str| case[name].as_u64().unwrap();
            let seed = case["gear_seed"].as_str().unwrap().strip_prefix("0x").unwrap();
            let mut keys = ring.naming().clone();
            keys.gear_seed = u64::from_str_radix(seed, 16).unwrap();
            let chunking = Chunking {
                stream_minimum: number("minimum") as u32,
                stream_average: number("average") as u32,
                stream_maximum: number("maximum") as u32,
                ..Chunking::default()
            };
            let mut file = vec![0; number("content_length") as usize];
            blake3::Hasher::new().update(b"fastcdc").finalize_xof().fill(&mut file);
            let mut lengths = vec![];
            let mut cutter = StreamCutter::new(&keys, &chunking);
            for bytes in file.chunks(1021) {
                cutter.bytes(bytes, |chunk| lengths.push(chunk.len() as u64));
            }
            cutter.end(|chunk| lengths.push(chunk.len() as u64));
            assert_eq!(serde_json::Value::from(lengths), case["chunk_lengths"]);
        }
    }
}
