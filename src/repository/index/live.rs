//! Which blobs hold what is needed.

use std::collections::{BTreeMap, HashSet};

use repo_format::DecodeError;
use repo_format::blob::Encoding;
use repo_format::ids::{PackId, SHORT_ID};
use repo_format::index::BlobLocation;

use super::{Error, Index, Result, RowSet};

/// The blobs that hold chunks which something reaches: for each chunk one of its places.
#[derive(Debug)]
pub struct LiveBlobs {
    /// A bit for each blob, by its number.
    bits: Vec<u64>,
    /// How many bytes of each pack that is known live blobs take.
    bytes: BTreeMap<PackId, u64>,
}

impl LiveBlobs {
    /// The blobs of `index` that hold `live` chunks; those in packs to `avoid` only where there is no other
    /// place.
    pub fn find(
        index: &Index,
        live: &RowSet<SHORT_ID>,
        avoid: &HashSet<PackId>,
    ) -> Result<LiveBlobs> {
        let mut bits = vec![0u64; index.table.blob_count().div_ceil(64) as usize];
        let mut bytes: BTreeMap<PackId, u64> = index.packs().map(|(id, _)| (id, 0)).collect();
        let mut homeless = 0u64;
        let mark = index.table.for_each_id(|id| {
            if !live.contains(id)? {
                return Ok(());
            }
            let mut places = index.table.find(id)?;
            // Plain places first, wherever they are: what is a base of a delta must be plain.
            places.sort_by_key(|place| {
                (place.blob.encoding == Encoding::Delta, avoid.contains(&place.blob.pack))
            });
            let mut chosen = None;
            for place in places {
                if index.table.bases(&place)?.iter().try_fold(true, |all, base| {
                    Ok::<_, std::io::Error>(all && live.contains(base)?)
                })? {
                    chosen = Some(place);
                    break;
                }
            }
            let Some(place) = chosen else {
                homeless += 1;
                return Ok(());
            };
            let (word, bit) = (place.blob_number as usize / 64, 1u64 << (place.blob_number % 64));
            let Some(bits) = bits.get_mut(word) else { return Ok(()) };
            if *bits & bit == 0 {
                *bits |= bit;
                *bytes.entry(place.blob.pack).or_default() += place.blob.frame_length();
            }
            Ok(())
        });
        mark.map_err(Error::Scratch)?;
        if homeless > 0 {
            let detail =
                format!("{homeless} chunks that are needed have no place with all its bases");
            return Err(Error::damaged("index", DecodeError::malformed("index", detail)));
        }
        Ok(LiveBlobs { bits, bytes })
    }

    /// How many bytes of each pack live blobs take.
    pub fn bytes(&self) -> &BTreeMap<PackId, u64> {
        &self.bytes
    }

    /// The live blobs of some packs, by their packs.
    pub fn within(
        &self,
        index: &Index,
        packs: &HashSet<PackId>,
    ) -> Result<BTreeMap<PackId, Vec<BlobLocation>>> {
        let mut found: BTreeMap<PackId, Vec<BlobLocation>> = BTreeMap::new();
        for number in 0..index.table.blob_count() {
            let word = self.bits.get(number as usize / 64).copied().unwrap_or_default();
            if word & (1 << (number % 64)) == 0 {
                continue;
            }
            let blob = index.table.blob_numbered(number).map_err(Error::Scratch)?;
            if let Some(blob) = blob.filter(|blob| packs.contains(&blob.pack)) {
                found.entry(blob.pack).or_default().push(blob);
            }
        }
        Ok(found)
    }
}
