//! Sealed boxes: authenticated encryption that commits to its key and to where it belongs.
//!
//! ```text
//! key id [16]  nonce [24]  commitment [32]  ciphertext [n]  tag [16]
//! ```
//!
//! The cipher is XChaCha20-Poly1305 with a random nonce. Poly1305 alone would let two keys open the
//! same bytes to different plaintexts; the commitment, a keyed BLAKE3 of nonce, tag and associated
//! data, rules that out (the construction of Chan and Rogaway, "On Committing Authenticated
//! Encryption", 2022).

use chacha20poly1305::aead::{AeadInOut, inout::InOutBuf};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use crate::codec::{DecodeError, Reader, Result};
use crate::ids::{KeyId, RepositoryId};
use crate::keys::{KeyRing, Secret};

/// How many bytes a sealed box is longer than its plaintext.
pub const OVERHEAD: usize = KeyId::LEN + NONCE + COMMITMENT + TAG;

const NONCE: usize = 24;
const COMMITMENT: usize = 32;
const TAG: usize = 16;

/// What a sealed box holds; part of its associated data, so that none opens as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The header of a blob.
    BlobHeader,
    /// The body of a blob.
    BlobBody,
    /// The footer of a pack.
    PackFooter,
    /// An index run.
    Index,
    /// The master secrets in a key slot.
    KeySlot,
    /// A snapshot.
    Snapshot,
    /// A note about a backup.
    Note,
    /// A server record.
    Server,
    /// The header of a WAL object.
    Wal,
    /// A session's heartbeat.
    Session,
    /// A maintenance record.
    Maintenance,
}

impl Domain {
    /// The name of the domain, as it stands in the associated data.
    pub fn name(self) -> &'static str {
        match self {
            Domain::BlobHeader => "blob header",
            Domain::BlobBody => "blob body",
            Domain::PackFooter => "pack footer",
            Domain::Index => "index run",
            Domain::KeySlot => "key slot",
            Domain::Snapshot => "snapshot",
            Domain::Note => "note",
            Domain::Server => "server record",
            Domain::Wal => "WAL header",
            Domain::Session => "session",
            Domain::Maintenance => "maintenance record",
        }
    }
}

/// Where nonces come from.
#[derive(Debug, Clone, Default)]
pub enum Nonces {
    /// The system's random numbers: the only right answer outside tests.
    #[default]
    System,
    /// A counter, hashed: for test vectors that can be made again. Two things sealed with one key and
    /// one number give their contents away.
    #[cfg(feature = "fixed-nonces")]
    Counted(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Nonces {
    fn next(&self) -> std::result::Result<[u8; NONCE], getrandom::Error> {
        let mut nonce = [0; NONCE];
        match self {
            Nonces::System => getrandom::fill(&mut nonce)?,
            #[cfg(feature = "fixed-nonces")]
            Nonces::Counted(counter) => {
                let number = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let hash = blake3::derive_key("barman test nonce", &number.to_le_bytes());
                nonce.copy_from_slice(hash.first_chunk::<NONCE>().expect("32 bytes hold 24"));
            }
        }
        Ok(nonce)
    }
}

/// A key that seals and opens.
#[derive(Clone)]
pub struct SealingKey {
    id: KeyId,
    nonces: Nonces,
    commitment: Secret,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

impl SealingKey {
    /// The sealing key that `secret` gives.
    pub fn new(secret: Secret) -> Self {
        let id = secret.derive("barman v1 key id");
        SealingKey {
            id: KeyId::from_bytes(*id.expose().first_chunk().expect("32 bytes hold 16")),
            nonces: Nonces::System,
            commitment: secret.derive("barman v1 key commitment"),
            cipher: XChaCha20Poly1305::new(secret.expose().into()),
        }
    }

    pub(crate) fn set_nonces(&mut self, nonces: &Nonces) {
        self.nonces = nonces.clone();
    }

    /// The id of the key, which stands in everything it seals.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Appends the sealed form of `plaintext` to `out`.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    pub fn seal(
        &self,
        out: &mut Vec<u8>,
        domain: Domain,
        repository: &RepositoryId,
        context: &[u8],
        plaintext: &[u8],
    ) -> std::result::Result<(), getrandom::Error> {
        let nonce = self.nonces.next()?;
        let aad = associated_data(domain, repository, &self.id, context);
        out.reserve(OVERHEAD + plaintext.len());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&nonce);
        let commitment_at = out.len();
        out.extend_from_slice(&[0; COMMITMENT]);
        let text_at = out.len();
        out.extend_from_slice(plaintext);
        let (head, text) = out.split_at_mut(text_at);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), &aad, InOutBuf::from(text))
            .expect("XChaCha20 seals up to 256 GiB, and lengths are bounded far below");
        let tag: [u8; TAG] = tag.into();
        let commitment = self.commit(&nonce, &tag, &aad);
        if let Some(slot) = head.get_mut(commitment_at..) {
            slot.copy_from_slice(&commitment);
        }
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens a sealed box.
    pub fn open(
        &self,
        domain: Domain,
        repository: &RepositoryId,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>> {
        let what = domain.name();
        let mut reader = Reader::new(what, sealed);
        let key = KeyId::from_bytes(reader.array()?);
        let nonce: [u8; NONCE] = reader.array()?;
        let commitment: [u8; COMMITMENT] = reader.array()?;
        let (text, tag) =
            reader.rest().split_last_chunk::<TAG>().ok_or(DecodeError::Truncated { what })?;
        if key != self.id {
            return Err(DecodeError::UnknownKey { what, key });
        }
        let aad = associated_data(domain, repository, &self.id, context);
        // blake3::Hash compares in constant time.
        if blake3::Hash::from_bytes(commitment) != self.commit(&nonce, tag, &aad) {
            return Err(DecodeError::Seal { what });
        }
        let mut plaintext = text.to_vec();
        self.cipher
            .decrypt_inout_detached(
                &nonce.into(),
                &aad,
                InOutBuf::from(plaintext.as_mut_slice()),
                &(*tag).into(),
            )
            .map_err(|_| DecodeError::Seal { what })?;
        Ok(plaintext)
    }

    fn commit(&self, nonce: &[u8; NONCE], tag: &[u8; TAG], aad: &[u8]) -> [u8; COMMITMENT] {
        let mut hasher = blake3::Hasher::new_keyed(self.commitment.expose());
        hasher.update(nonce).update(tag).update(aad);
        *hasher.finalize().as_bytes()
    }
}

impl KeyRing {
    /// Opens a sealed box with whichever key of the ring sealed it.
    pub fn open(&self, domain: Domain, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let what = domain.name();
        let key = key_id(what, sealed)?;
        let key = self.find(&key).ok_or(DecodeError::UnknownKey { what, key })?;
        key.open(domain, self.repository(), context, sealed)
    }
}

/// The id of the key that sealed a box.
pub fn key_id(what: &'static str, sealed: &[u8]) -> Result<KeyId> {
    Ok(KeyId::from_bytes(Reader::new(what, sealed).array()?))
}

/// Domain, repository and key stand in front of the context; the zero byte ends the domain's name.
fn associated_data(
    domain: Domain,
    repository: &RepositoryId,
    key: &KeyId,
    context: &[u8],
) -> Vec<u8> {
    let mut aad = Vec::with_capacity(64 + context.len());
    aad.extend_from_slice(b"barman v1 ");
    aad.extend_from_slice(domain.name().as_bytes());
    aad.push(0);
    aad.extend_from_slice(repository.as_bytes());
    aad.extend_from_slice(key.as_bytes());
    aad.extend_from_slice(context);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealingKey {
        SealingKey::new(Secret::from_bytes([byte; 32]))
    }

    #[test]
    fn opens_only_with_its_key_in_its_place() {
        let (repository, other) =
            (RepositoryId::from_bytes([1; 16]), RepositoryId::from_bytes([2; 16]));
        let mut sealed = vec![];
        key(1).seal(&mut sealed, Domain::Note, &repository, b"here", b"text").unwrap();
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(key(1).open(Domain::Note, &repository, b"here", &sealed).unwrap(), b"text");
        assert!(key(2).open(Domain::Note, &repository, b"here", &sealed).is_err());
        assert!(key(1).open(Domain::Index, &repository, b"here", &sealed).is_err());
        assert!(key(1).open(Domain::Note, &other, b"here", &sealed).is_err());
        assert!(key(1).open(Domain::Note, &repository, b"there", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(
                key(1).open(Domain::Note, &repository, b"here", &changed).is_err(),
                "byte {at}"
            );
            assert!(key(1).open(Domain::Note, &repository, b"here", &sealed[..at]).is_err());
        }
    }
}
