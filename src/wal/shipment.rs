//! WAL files on their way between hosts, in Barman's form: a tar archive with a file and the sums of it.

use std::io::{self, Cursor, Read};

use md5::Md5;
use repo_format::limits::MAX_WAL_FILE;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// The member of the archive that has the SHA-256 sums.
const SHA256SUMS: &str = "SHA256SUMS";

/// The same of older clients, and with `--md5`.
const MD5SUMS: &str = "MD5SUMS";

/// The most that a member with sums may have, in bytes.
const MAX_SUMS: u64 = 64 * 1024;

/// The most files that come in one archive.
const MAX_FILES: usize = 64;

/// How a file is compressed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// A file with its name, as it is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Its name, without a directory.
    pub file: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Packs a file for `put-wal`.
///
/// # Errors
/// If the name does not fit into the archive.
pub fn pack(file: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(content.len() + 4096));
    let sums = format!("{} *{file}\n", hex(&Sha256::digest(content)));
    for (name, bytes) in [(file, content), (SHA256SUMS, sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()
}

/// Unpacks what a client sent, and compares the sums. Nothing of it is returned unless all of it is right.
///
/// # Errors
/// If it is no archive of this form, if a file has no sum or another one, or if it is too large.
pub fn unpack(sent: impl Read) -> Result<Vec<Carried>> {
    let broken = |error: io::Error| {
        Error::new(Kind::Refused, "what came on standard input is no tar archive of WAL files")
            .because(error)
            .hint("'barman put-wal' is run by barman-wal-archive on a database host")
    };
    let refused = |what: String| Err(Error::new(Kind::Refused, what));
    let (mut files, mut sums): (Vec<Carried>, Vec<(String, String)>) = (vec![], vec![]);
    let mut archive = tar::Archive::new(sent);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let is_sums = name == SHA256SUMS || name == MD5SUMS;
        let limit = if is_sums { MAX_SUMS } else { MAX_WAL_FILE };
        if !entry.header().entry_type().is_file() || name.contains('/') {
            return refused(format!("{name:?} came, which is not a plain file"));
        }
        if entry.size() > limit || files.len() >= MAX_FILES {
            return refused(format!("{name} came with {} bytes: too much", entry.size()));
        }
        let mut content = vec![];
        entry.take(limit).read_to_end(&mut content).map_err(broken)?;
        if is_sums {
            sums.extend(parse_sums(&String::from_utf8_lossy(&content)));
        } else {
            files.push(Carried { file: name, content });
        }
    }
    if files.is_empty() {
        return refused("no WAL file came".to_owned());
    }
    for Carried { file, content } in &files {
        let Some((_, sum)) = sums.iter().find(|(name, _)| name == file) else {
            return refused(format!("{file} came without a checksum"));
        };
        let is_right = match sum.len() {
            64 => *sum == hex(&Sha256::digest(content)),
            32 => *sum == hex(&Md5::digest(content)),
            _ => false,
        };
        if !is_right {
            return refused(format!("{file} was changed on its way: it has another checksum"));
        }
    }
    Ok(files)
}

/// Lines of a hexadecimal sum, a blank and perhaps an asterisk, and the name.
fn parse_sums(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let named = lines.map(|(sum, name)| (name.trim_start().trim_start_matches('*'), sum));
    named.map(|(name, sum)| (name.to_owned(), sum.to_ascii_lowercase())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compresses a file for its way.
pub fn compress(content: &[u8], how: Compression) -> io::Result<Vec<u8>> {
    let mut compressed = vec![];
    match how {
        Compression::Gzip => flate2::read::GzEncoder::new(content, flate2::Compression::default())
            .read_to_end(&mut compressed),
        Compression::Bzip2 => bzip2::read::BzEncoder::new(content, bzip2::Compression::default())
            .read_to_end(&mut compressed),
        Compression::Zstd => {
            zstd::stream::read::Encoder::new(content, 3)?.read_to_end(&mut compressed)
        }
    }?;
    Ok(compressed)
}

/// The file as it was before a client compressed it; a plain file as it is.
///
/// # Errors
/// If it does not decompress, becomes too large, or is of a compression that is not known here.
pub fn plain(carried: Carried) -> Result<Carried> {
    let Carried { file, content } = carried;
    let how = match content.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unknown(&file, "xz")),
        [0x04, 0x22, 0x4d, 0x18, ..] => return Err(unknown(&file, "lz4")),
        [0xff, 0x06, 0x00, 0x00, b's', b'N', ..] => return Err(unknown(&file, "snappy")),
        _ => return Ok(Carried { file, content }),
    };
    let compressed = Cursor::new(content);
    let mut content = vec![];
    let read = |reader: &mut dyn Read, content: &mut Vec<u8>| {
        reader.take(MAX_WAL_FILE + 1).read_to_end(content)
    };
    let read = match how {
        Compression::Gzip => read(&mut flate2::read::MultiGzDecoder::new(compressed), &mut content),
        Compression::Bzip2 => read(&mut bzip2::read::MultiBzDecoder::new(compressed), &mut content),
        Compression::Zstd => zstd::stream::read::Decoder::new(compressed)
            .and_then(|mut decoder| read(&mut decoder, &mut content)),
    };
    read.map_err(|error| {
        Error::new(Kind::Refused, format!("{file} does not decompress")).because(error)
    })?;
    if content.len() as u64 > MAX_WAL_FILE {
        return Err(Error::new(Kind::Refused, format!("{file} is over 1 GiB")));
    }
    Ok(Carried { file, content })
}

fn unknown(file: &str, compression: &str) -> Error {
    Error::new(Kind::Refused, format!("{file} came compressed with {compression}")).hint(format!(
        "take --{compression} away from archive_command: the repository compresses by itself"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried() -> Carried {
        let content = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        Carried { file: "000000010000000000000001".into(), content }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let carried = carried();
        let packed = pack(&carried.file, &carried.content).unwrap();
        assert_eq!(unpack(packed.as_slice()).unwrap(), [carried]);
    }

    #[test]
    fn what_was_changed_cut_or_never_summed_is_refused() {
        let carried = carried();
        let packed = pack(&carried.file, &carried.content).unwrap();
        let mut changed = packed.clone();
        changed[5000] ^= 1;
        assert!(unpack(changed.as_slice()).unwrap_err().to_string().contains("another checksum"));
        for cut in [0, 100, 700, packed.len() / 2] {
            assert!(unpack(&packed[..cut]).is_err(), "{cut}");
        }
        let mut archive = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        archive.append_data(&mut header, "00000002.history", b"abc".as_slice()).unwrap();
        let error = unpack(archive.into_inner().unwrap().as_slice()).unwrap_err();
        assert!(error.to_string().contains("without a checksum"), "{error}");
    }

    #[test]
    fn sums_are_read_in_both_forms() {
        let sums = parse_sums("ABcd *a\n12  b c\nnothing\n");
        assert_eq!(sums, [("a".into(), "abcd".into()), ("b c".into(), "12".into())]);
    }

    #[test]
    fn compressed_files_become_plain() {
        let carried = carried();
        for how in [Compression::Gzip, Compression::Bzip2, Compression::Zstd] {
            let content = compress(&carried.content, how).unwrap();
            assert!(content.len() < carried.content.len() / 2);
            let came = Carried { file: carried.file.clone(), content: content.clone() };
            assert_eq!(plain(came).unwrap(), carried);
            let cut = Carried { file: "x".into(), content: content[..content.len() / 2].to_vec() };
            assert!(plain(cut).is_err(), "{how:?}");
        }
        assert_eq!(plain(carried.clone()).unwrap(), carried);
        let xz = Carried { file: "x".into(), content: b"\xfd7zXZ\0".to_vec() };
        assert!(plain(xz).unwrap_err().hint_text().unwrap().contains("--xz"));
    }
}
