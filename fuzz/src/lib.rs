//! What fuzz targets share.

use std::fmt::Debug;

/// The number of the parser that an input is for, below `parsers`, and the input itself.
pub fn pick(data: &[u8], parsers: u8) -> Option<(u8, &[u8])> {
    let (first, input) = data.split_first()?;
    Some((first % parsers, input))
}

/// Decodes `input`; what is accepted must encode to the same bytes.
pub fn canonical<T, E: Debug, F: Debug>(
    input: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, E>,
    encode: impl FnOnce(&T) -> Result<Vec<u8>, F>,
) -> Option<T> {
    let value = decode(input).ok()?;
    let again = encode(&value).expect("what was decoded can be encoded");
    assert!(again == input, "accepted bytes have another encoding");
    Some(value)
}

/// The keys of the golden repository (`repo-format/vectors/keys.json`).
pub fn keys() -> repo_format::keys::KeyRing {
    use repo_format::ids::RepositoryId;
    use repo_format::keys::{Epoch, KeyRing, MasterSecrets, Secret};

    let secret = |first: u8| Secret::from_bytes(std::array::from_fn(|i| first + i as u8));
    let secrets = MasterSecrets {
        repository: RepositoryId::from_bytes(std::array::from_fn(|i| 0xa0 + i as u8)),
        identity: secret(0x00),
        epochs: vec![
            Epoch { number: 1, secret: secret(0x20) },
            Epoch { number: 2, secret: secret(0x40) },
        ],
    };
    KeyRing::new(&secrets).expect("valid secrets")
}
