//! `BASE_BACKUP`: a base backup as a stream of tar archives and a manifest.

use super::backup_manifest::ChecksumAlgorithm;
use super::error::Error;
use super::lsn::{Lsn, TimelineId};
use super::replication::ReplicationConnection;
use super::wire::{Event, Row, unexpected};
use bytes::{Buf, Bytes};

/// How a base backup is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// The label written into `backup_label`.
    pub label: String,
    /// Whether the checkpoint it begins with is done at once, at the cost of I/O.
    pub fast_checkpoint: bool,
    /// The highest rate, in KiB/s (32 to 1048576).
    pub max_rate: Option<u32>,
    /// The checksums in the manifest; `None` for none.
    pub manifest_checksums: Option<ChecksumAlgorithm>,
    /// Whether only what changed since the manifest uploaded before is sent (17 and later).
    pub incremental: bool,
    /// Whether the places of tablespaces come as a `tablespace_map` instead of as links in `pg_tblspc`.
    /// Links are limited to 99 bytes; but with a map, 15 leaves out tablespaces in `pg_tblspc` itself.
    pub tablespace_map: bool,
}

impl Default for BaseBackupOptions {
    fn default() -> Self {
        BaseBackupOptions {
            label: "barman".into(),
            fast_checkpoint: false,
            max_rate: None,
            manifest_checksums: Some(ChecksumAlgorithm::Crc32c),
            incremental: false,
            tablespace_map: true,
        }
    }
}

impl BaseBackupOptions {
    /// The command. The server neither waits for archiving nor sends WAL: both are for the caller
    /// to see to. It does not verify checksums: the caller does, and knows better what a bad one
    /// means.
    fn command(&self) -> Result<String, Error> {
        if self.label.chars().any(char::is_control) || self.label.len() >= 1024 {
            return Err(Error::Request(
                "a backup's label must be shorter than 1024 bytes and without control characters"
                    .into(),
            ));
        }
        let checksums = match &self.manifest_checksums {
            None => "NONE".to_owned(),
            Some(ChecksumAlgorithm::Other(name)) => {
                return Err(Error::Request(format!("checksum algorithm {name:?} is not known")));
            }
            Some(algorithm) => algorithm.to_string(),
        };
        let map = self.tablespace_map;
        let checkpoint = if self.fast_checkpoint { "fast" } else { "spread" };
        let mut command = format!(
            "BASE_BACKUP (LABEL '{}', PROGRESS true, CHECKPOINT '{checkpoint}', WAIT false, \
             WAL false, TABLESPACE_MAP {map}, VERIFY_CHECKSUMS false, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS '{checksums}'",
            self.label.replace('\'', "''")
        );
        if let Some(rate) = self.max_rate {
            if !(32..=1 << 20).contains(&rate) {
                return Err(Error::Request(format!(
                    "a backup's rate of {rate} KiB/s is not between 32 and 1048576"
                )));
            }
            command += &format!(", MAX_RATE {rate}");
        }
        if self.incremental {
            command += ", INCREMENTAL true";
        }
        Ok(command + ")")
    }
}

/// A tablespace of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID; `None` for the data directory itself.
    pub oid: Option<u32>,
    /// Where it lies on the server; `None` for the data directory.
    pub location: Option<String>,
    /// An estimate of its size in KiB.
    pub size_kib: Option<u64>,
}

/// A position in the WAL and its timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPosition {
    /// The position.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: TimelineId,
}

/// A piece of a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A tar archive begins; the one before, if any, has ended.
    Archive {
        /// `<oid>.tar`, or `base.tar` for the data directory, which comes last.
        name: String,
        /// The tablespace's location on the server; empty for the data directory.
        location: String,
    },
    /// Bytes of the archive, or of the manifest.
    Data(Bytes),
    /// The manifest begins; the last archive has ended.
    Manifest,
    /// Bytes done so far, in all.
    Progress(u64),
}

/// A base backup under way. Dropping it closes the connection, and the server gives up.
#[derive(Debug)]
pub struct BaseBackup {
    connection: ReplicationConnection,
    start: WalPosition,
    tablespaces: Vec<Tablespace>,
    part: Part,
}

/// Which part of the stream is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Archive,
    Manifest,
    Ended,
}

impl BaseBackup {
    /// Starts a backup; returns when the server's checkpoint is done.
    pub async fn start(
        mut connection: ReplicationConnection,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackup, Error> {
        connection.wire.query(&options.command()?).await?;
        let start = position(&one_row(&result_set(&mut connection).await?)?)?;
        let tablespaces =
            result_set(&mut connection).await?.iter().map(tablespace).collect::<Result<_, _>>()?;
        match connection.wire.next().await? {
            Event::CopyOut => {
                Ok(BaseBackup { connection, start, tablespaces, part: Part::Nothing })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Where recovery of the backup begins.
    pub fn start_position(&self) -> WalPosition {
        self.start
    }

    /// The cluster's tablespaces in the order they are sent, the data directory last.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if self.part == Part::Ended {
            return Ok(None);
        }
        match self.connection.wire.next().await? {
            Event::CopyData(data) => self.frame(data).map(Some),
            Event::CopyDone if self.part == Part::Manifest => {
                self.part = Part::Ended;
                Ok(None)
            }
            Event::CopyDone => Err(Error::Protocol("the backup ended before its manifest".into())),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a backup whose pieces have all been received: to which position WAL is needed, and the
    /// connection, ready for other commands.
    pub async fn finish(mut self) -> Result<(WalPosition, ReplicationConnection), Error> {
        if self.part != Part::Ended {
            return Err(Error::Request("the backup has not been received to its end".into()));
        }
        let end = position(&one_row(&result_set(&mut self.connection).await?)?)?;
        loop {
            match self.connection.wire.next().await? {
                Event::Complete(_) => {}
                Event::Ready => return Ok((end, self.connection)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn frame(&mut self, data: Bytes) -> Result<Frame, Error> {
        let (frame, part) = read_frame(data, self.part)?;
        self.part = part;
        Ok(frame)
    }
}

/// Reads one CopyData payload: a type byte, and what belongs to it.
fn read_frame(mut data: Bytes, part: Part) -> Result<(Frame, Part), Error> {
    let bad = |what: &str| Error::Protocol(format!("{what} in a base backup"));
    let kind = data.try_get_u8().map_err(|_| bad("an empty message"))?;
    match (kind, part) {
        (b'n', Part::Nothing | Part::Archive) => {
            let mut strings = data.split(|byte| *byte == 0);
            let (Some(name), Some(location), Some([]), None) =
                (strings.next(), strings.next(), strings.next(), strings.next())
            else {
                return Err(bad("a malformed archive header"));
            };
            let name = String::from_utf8_lossy(name).into_owned();
            let location = String::from_utf8_lossy(location).into_owned();
            // Names become paths in careless hands: only the two expected forms pass.
            let stem = name.strip_suffix(".tar").unwrap_or("");
            let oid = !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit());
            if !oid && stem != "base" {
                return Err(bad(&format!("an archive named {name:?}")));
            }
            Ok((Frame::Archive { name, location }, Part::Archive))
        }
        (b'm', Part::Archive) => Ok((Frame::Manifest, Part::Manifest)),
        (b'd', Part::Archive | Part::Manifest) => Ok((Frame::Data(data), part)),
        (b'p', _) => {
            let done = data.try_get_u64().map_err(|_| bad("a malformed progress report"))?;
            Ok((Frame::Progress(done), part))
        }
        (kind, _) => Err(bad(&format!("an unexpected message of type {:?}", char::from(kind)))),
    }
}

/// The rows of one result set, read to the end of its statement.
async fn result_set(connection: &mut ReplicationConnection) -> Result<Vec<Row>, Error> {
    match connection.wire.next().await? {
        Event::Columns(_) => {}
        other => return Err(unexpected(&other)),
    }
    let mut rows = Vec::new();
    loop {
        match connection.wire.next().await? {
            Event::Row(row) => rows.push(row),
            Event::Complete(_) => return Ok(rows),
            other => return Err(unexpected(&other)),
        }
    }
}

fn one_row(rows: &[Row]) -> Result<&Row, Error> {
    match rows {
        [row] => Ok(row),
        _ => Err(Error::Protocol("not one row where a WAL position is due".into())),
    }
}

fn position(row: &&Row) -> Result<WalPosition, Error> {
    Ok(WalPosition { lsn: row.parse(0, "WAL position")?, timeline: row.parse(1, "timeline")? })
}

fn tablespace(row: &Row) -> Result<Tablespace, Error> {
    Ok(Tablespace {
        oid: row.parse_or_null(0, "tablespace OID")?,
        location: row.text(1)?.map(str::to_owned),
        size_kib: row.parse_or_null(2, "tablespace size")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &[u8], part: Part) -> Result<(Frame, Part), Error> {
        read_frame(Bytes::copy_from_slice(data), part)
    }

    #[test]
    fn frames() {
        let (frame, part) = read(b"n16400.tar\0/srv/a\0", Part::Nothing).unwrap();
        assert_eq!(frame, Frame::Archive { name: "16400.tar".into(), location: "/srv/a".into() });
        let (frame, part) = read(b"dabc", part).unwrap();
        assert_eq!(frame, Frame::Data(Bytes::from_static(b"abc")));
        let (frame, part) = read(b"p\0\0\0\0\0\0\x01\0", part).unwrap();
        assert_eq!((frame, part), (Frame::Progress(256), Part::Archive));
        assert_eq!(read(b"m", part).unwrap(), (Frame::Manifest, Part::Manifest));
    }

    #[test]
    fn violations() {
        for (data, part) in [
            (&b""[..], Part::Archive),
            (b"dabc", Part::Nothing),
            (b"m", Part::Nothing),
            (b"nbase.tar\0\0", Part::Manifest),
            (b"n../x.tar\0\0", Part::Nothing),
            (b"n.tar\0\0", Part::Nothing),
            (b"nbase.tar\0", Part::Nothing),
            (b"nbase.tar", Part::Nothing),
            (b"nbase.tar\0\0x", Part::Nothing),
            (b"p\0\0", Part::Archive),
            (b"z", Part::Archive),
        ] {
            assert!(matches!(read(data, part), Err(Error::Protocol(_))), "{data:?}");
        }
    }

    #[test]
    fn options_are_checked_and_quoted() {
        let label = |label: &str| BaseBackupOptions { label: label.into(), ..Default::default() };
        assert!(label("o'clock").command().unwrap().contains("LABEL 'o''clock'"));
        assert!(label("a\nb").command().is_err());
        assert!(label(&"x".repeat(1024)).command().is_err());
        let rate = |max_rate| BaseBackupOptions { max_rate, ..Default::default() };
        assert!(rate(Some(0)).command().is_err());
        assert!(rate(Some(1024)).command().unwrap().contains("MAX_RATE 1024"));
        assert!(!rate(None).command().unwrap().contains("MAX_RATE"));
    }
}
