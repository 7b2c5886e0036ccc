//! Key files: 256 random bits as a line of text, the unlocking key of machines that run without a
//! person.
//!
//! ```text
//! barman-key-1:<64 lower-case hexadecimal digits><newline>
//! ```
//!
//! The file must be readable by its owner alone (mode 0600); whoever reads it, can read everything.

use zeroize::Zeroizing;

use crate::codec::{DecodeError, Result};
use crate::keys::Secret;

/// What a key file starts with: what it is, and the version of its form.
pub const PREFIX: &str = "barman-key-1:";

const DIGITS: usize = 64;

/// The text of the key file that holds `secret`.
pub fn encode(secret: &Secret) -> Zeroizing<String> {
    // The whole capacity at once: growing would leave copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + DIGITS + 1));
    text.push_str(PREFIX);
    for byte in secret.expose() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("four bits are one digit"));
        }
    }
    text.push('\n');
    text
}

/// The secret in the text of a key file; the newline at its end may be missing. Errors tell nothing
/// of the text.
pub fn decode(text: &[u8]) -> Result<Secret> {
    let malformed = |detail: &str| DecodeError::malformed("key file", detail);
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = text
        .strip_prefix(PREFIX.as_bytes())
        .ok_or_else(|| malformed("it does not start with \"barman-key-1:\""))?;
    if digits.len() != DIGITS {
        return Err(malformed("its key does not have 64 digits"));
    }
    let mut bytes = Zeroizing::new([0; DIGITS / 2]);
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(malformed("its key has other than lower-case hexadecimal digits")),
            };
            *byte = *byte << 4 | value;
        }
    }
    Ok(Secret::from_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_are_read_back_with_or_without_the_newline() {
        let secret = Secret::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        let text = encode(&secret);
        assert_eq!(text.len(), 13 + 64 + 1);
        assert_eq!(decode(text.as_bytes()), Ok(secret.clone()));
        assert_eq!(decode(text.trim_end().as_bytes()), Ok(secret));
    }

    #[test]
    fn other_texts_are_refused_and_not_repeated() {
        let text = encode(&Secret::from_bytes([0xab; 32]));
        let text = text.trim_end();
        for wrong in [
            String::new(),
            format!("{text}\n\n"),
            format!("{text}\r\n"),
            format!(" {text}"),
            format!("{text}0"),
            text.to_uppercase(),
            text.replace("ab", "AB"),
            text.replace("key-1", "key-2"),
            text[..text.len() - 1].to_owned(),
        ] {
            let error = decode(wrong.as_bytes()).unwrap_err().to_string();
            assert!(!error.to_lowercase().contains("abab"), "{error}");
        }
    }
}
