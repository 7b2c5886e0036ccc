//! The text of a key file: `barman-key-1:`, 64 lower-case hexadecimal digits, and a newline.

use zeroize::Zeroizing;

use crate::codec::{DecodeError, Result};
use crate::ids::ChunkId;
use crate::keys::Secret;

const PREFIX: &str = "barman-key-1:";

/// The text of the key file that holds `secret`.
pub fn encode(secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 65));
    text.push_str(PREFIX);
    for byte in secret.expose() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a digit"));
        }
    }
    text.push('\n');
    text
}

/// The secret in the text of a key file. The newline may be missing.
pub fn parse(text: &str) -> Result<Secret> {
    let malformed = || DecodeError::malformed("key file", "it is not barman-key-1: and 64 digits");
    let line = text.strip_suffix('\n').unwrap_or(text);
    let digits = line.strip_prefix(PREFIX).ok_or_else(malformed)?;
    // An identifier's hexadecimal form is as long and as strict.
    let bytes: ChunkId = digits.parse().map_err(|_| malformed())?;
    Ok(Secret::from_bytes(*bytes.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_read_back_and_nothing_else_is() {
        let secret = Secret::from_bytes([0x5a; 32]);
        let text = encode(&secret);
        assert_eq!(parse(&text).unwrap(), secret);
        assert_eq!(parse(text.trim_end()).unwrap(), secret);
        for wrong in ["", "5a5a", &text.to_uppercase(), &format!("{}\n", text.as_str())] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
