//! Recovery codes: the secret of a key file in a form that people can write down and type again.
//!
//! ```text
//! barman1 zyx5 …: bech32m (BIP 350) of the 32 bytes under the prefix "barman", in groups of four
//! ```
//!
//! Up to four wrong characters are found for certain, and what may be taken for another character
//! (`1`, `b`, `i`, `o`) does not occur after the prefix. Whoever has the code has the key.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Result};
use crate::keys::Secret;

const PREFIX: &str = "barman";

/// Characters of a code without what groups them: prefix, `1`, 52 of the secret, 6 of the checksum.
const LENGTH: usize = PREFIX.len() + 1 + 52 + 6;

/// Characters in a group.
const GROUP: usize = 4;

/// The longest text that is looked at, in bytes: a code, with room for what groups it.
pub const MAX_TEXT: usize = 4 * LENGTH;

/// The code for `secret`: the prefix, then groups of four characters.
pub fn encode(secret: &Secret) -> Zeroizing<String> {
    let plain = plain(secret);
    let (prefix, rest) = plain.split_at(PREFIX.len() + 1);
    // The whole capacity at once: growing would leave copies of the secret behind.
    let mut code = Zeroizing::new(String::with_capacity(2 * LENGTH));
    code.push_str(prefix);
    for (at, character) in rest.chars().enumerate() {
        if at % GROUP == 0 {
            code.push(' ');
        }
        code.push(character);
    }
    code
}

/// Whether `text` has as many characters as a code.
pub fn is_complete(text: &str) -> bool {
    text.chars().filter(counts).count() >= LENGTH
}

/// The secret in a code. Blanks, line ends and hyphens do not matter, nor do capital letters. Errors tell
/// nothing of the text.
pub fn decode(text: &str) -> Result<Secret> {
    let malformed = |detail: &str| DecodeError::malformed("recovery code", detail);
    if text.len() > MAX_TEXT {
        return Err(malformed("it is too long"));
    }
    let mut code = Zeroizing::new(String::with_capacity(MAX_TEXT));
    code.extend(text.chars().filter(counts).map(|c| c.to_ascii_lowercase()));
    if !code.starts_with("barman1") {
        return Err(malformed("it does not begin with \"barman1\""));
    }
    if code.len() != LENGTH {
        let detail = format!("it has {} characters instead of {LENGTH}", code.chars().count());
        return Err(malformed(&detail));
    }
    let checked = CheckedHrpstring::new::<Bech32m>(&code)
        .map_err(|_| malformed("its checksum does not match: a character is wrong"))?;
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.iter_mut().zip(checked.byte_iter()).for_each(|(to, from)| *to = from);
    let secret = Secret::from_bytes(*bytes);
    // The last character has bits to spare, which are zero.
    if *plain(&secret) != *code {
        return Err(malformed("its last character is none that is written"));
    }
    Ok(secret)
}

/// Whether a character is more than what groups others.
fn counts(c: &char) -> bool {
    !c.is_whitespace() && *c != '-'
}

fn plain(secret: &Secret) -> Zeroizing<String> {
    let mut code = Zeroizing::new(String::with_capacity(LENGTH));
    bech32::encode_lower_to_fmt::<Bech32m, _>(
        &mut *code,
        Hrp::parse_unchecked(PREFIX),
        secret.expose(),
    )
    .expect("32 bytes are not too long, and a string takes everything");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::from_bytes(std::array::from_fn(|i| i as u8 * 7))
    }

    #[test]
    fn codes_are_read_back_however_they_are_typed() {
        let code = encode(&secret());
        assert_eq!(code.split(' ').count(), 1 + 15);
        assert!(code.split(' ').skip(1).all(|group| group.len() <= 4));
        for typed in [
            code.to_string(),
            code.replace(' ', ""),
            code.replace(' ', "-"),
            format!("  {}\r\n", code.replace(' ', "\n  ").to_uppercase()),
        ] {
            assert_eq!(decode(&typed), Ok(secret()), "{typed}");
        }
    }

    #[test]
    fn every_wrong_character_and_every_swap_is_found() {
        let code = encode(&secret()).replace(' ', "");
        for at in 7..code.len() {
            for other in "qpzry9x8gf2tvdw0s3jn54khce6mua7lbio1é".chars() {
                let mut wrong: Vec<char> = code.chars().collect();
                if wrong[at] == other {
                    continue;
                }
                wrong[at] = other;
                assert!(decode(&wrong.iter().collect::<String>()).is_err(), "{at} {other}");
            }
            let mut swapped: Vec<char> = code.chars().collect();
            swapped.swap(at - 1, at);
            let swapped: String = swapped.iter().collect();
            assert_eq!(decode(&swapped).is_ok(), swapped == code, "{at}");
        }
    }

    #[test]
    fn other_texts_are_refused_and_not_repeated() {
        let code = encode(&secret());
        let end = code.chars().rev().take(8).collect::<String>();
        for wrong in [
            String::new(),
            "barman1".to_owned(),
            code[..code.len() - 1].to_owned(),
            format!("{} q", *code),
            code.replace("barman1", "bacula1"),
            " ".repeat(MAX_TEXT + 1),
            // A checksum of the older kind.
            bech32::encode_lower::<bech32::Bech32>(Hrp::parse_unchecked(PREFIX), secret().expose())
                .unwrap(),
        ] {
            let error = decode(&wrong).unwrap_err().to_string();
            assert!(!error.contains(&end) && error.len() < 120, "{error}");
        }
    }
}
