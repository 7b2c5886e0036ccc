//! Which directories that are not empty a restore may write into, and the proof that they are what it
//! takes them for.

use std::path::{Path, PathBuf};

use repo_format::snapshot::Snapshot;

use super::destination::Destination;
use super::marker::{MARKER, Marker};
use super::place::{Content, Place};
use crate::error::{Error, Kind, Result};
use crate::postgres::control_file::{CONTROL_FILE, ClusterState, ControlFile};

/// What may be at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Onto {
    /// Nothing: a directory that is empty, or does not exist.
    #[default]
    Nothing,
    /// Also a data directory, of which is kept what is right.
    DataDirectory {
        /// Even if it is another cluster's than the one that was backed up.
        of_any: bool,
    },
    /// What a restore of the same backup has left that did not come to its end.
    Unfinished,
}

/// No marker and no control file is longer, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The directories that belong to what is at the destination, and so may be written into.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// Without symbolic links; the data directory first. None of them if all must be empty.
    owned: Vec<PathBuf>,
    /// The control file that is there, if there is one.
    pub control: Option<Vec<u8>>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

impl Claim {
    /// The claim of a restore that begins with `marker` on what is at `place`.
    ///
    /// # Errors
    /// If it is not what `onto` says, or a server runs on it.
    pub fn on(
        place: &Place,
        onto: Onto,
        snapshot: &Snapshot,
        marker: &Marker,
        host: &dyn Destination,
    ) -> Result<Claim> {
        let is_fresh = matches!(place.content, Content::Missing | Content::Empty);
        if onto == Onto::Nothing || (is_fresh && onto != Onto::Unfinished) {
            return Ok(Claim::default());
        }
        refuse_server(place)?;
        let read = |name: &str| host.read(&place.path.join(name), MAX_FILE);
        let (found, control) = match place.content {
            Content::DataDirectory { .. } | Content::Unfinished => {
                (read(MARKER)?.and_then(|bytes| Marker::parse(&bytes)), read(CONTROL_FILE)?)
            }
            _ => (None, None),
        };
        let mut claim = Claim { owned: vec![place.real.clone()], control, warnings: vec![] };
        match onto {
            Onto::Nothing => {}
            Onto::Unfinished => same_restore(place, found.as_ref(), marker)?,
            Onto::DataDirectory { of_any } => {
                claim.same_cluster(place, found.as_ref(), snapshot, of_any)?;
            }
        }
        claim.add_linked(place, host)?;
        // Beside a control file a marker may be older than what is there now.
        let found = found.filter(|_| place.content == Content::Unfinished);
        for path in found.iter().flat_map(|found| found.places.outside()) {
            claim.owned.push(host.look(path)?.real);
        }
        Ok(claim)
    }

    /// Whether anything is there that is kept, or removed.
    pub fn is_in_place(&self) -> bool {
        !self.owned.is_empty()
    }

    /// Whether a place is the data directory that may be written into although it is one.
    pub fn is_of(&self, place: &Place) -> bool {
        self.owned.first() == Some(&place.real)
    }

    /// Whether a place may be written into although it is not empty.
    pub fn has(&self, place: &Place) -> bool {
        self.owned.contains(&place.real)
    }

    /// Looks once more, just before anything is changed: much may have happened since.
    pub fn confirm(&self, path: &Path, host: &dyn Destination) -> Result<()> {
        if !self.is_in_place() {
            return Ok(());
        }
        refuse_server(&host.look(path)?)?;
        if host.read(&path.join(CONTROL_FILE), MAX_FILE)? != self.control {
            let message = format!(
                "{} has changed since it was looked at: a server ran there",
                path.display()
            );
            return Err(Error::new(Kind::Refused, message).hint("stop the server, and try again"));
        }
        Ok(())
    }

    /// Refuses to go on with a restore that has come to its end, after which a server ran.
    pub fn refuse_started(&self, onto: Onto, place: &Place, control: &[u8]) -> Result<()> {
        match &self.control {
            Some(found) if onto == Onto::Unfinished && found != control => {
                let message = format!(
                    "{} has a control file that is not the backup's: the restore had not begun to \
                     change anything, or a server ran there after it",
                    place.path.display()
                );
                Err(Error::new(Kind::Refused, message)
                    .hint("--delta restores over it, whatever is there"))
            }
            _ => Ok(()),
        }
    }

    /// Proves that a data directory is of the cluster that was backed up.
    fn same_cluster(
        &mut self,
        place: &Place,
        found: Option<&Marker>,
        snapshot: &Snapshot,
        of_any: bool,
    ) -> Result<()> {
        let path = place.path.display();
        if !matches!(place.content, Content::DataDirectory { .. } | Content::Unfinished) {
            let message = format!("{path} is not empty, and no data directory of PostgreSQL");
            return Err(Error::new(Kind::Refused, message).hint(
                "name the data directory, or an empty directory: nothing else is overwritten",
            ));
        }
        let control = self.control.as_deref().map(ControlFile::parse).transpose();
        let system_id = match (&control, found) {
            (Ok(Some(control)), _) => Some(control.system_id.0),
            (Ok(None), Some(found)) => Some(found.system_id),
            _ => None,
        };
        let own = snapshot.system_id;
        match system_id {
            _ if of_any => {}
            Some(id) if id == own => {}
            Some(id) => {
                let message = format!(
                    "{path} is of another cluster than backup {}: its system identifier is {id}, and \
                     the backup's is {own}",
                    snapshot.backup_id
                );
                return Err(Error::new(Kind::Refused, message).hint(format!(
                    "name the right directory; to replace cluster {id} by cluster {own}, add --force"
                )));
            }
            None => {
                let why = match control {
                    Err(error) => format!("{CONTROL_FILE} cannot be read: {error}"),
                    Ok(_) => format!("there is no {CONTROL_FILE}"),
                };
                let message = format!("nothing proves which cluster {path} is of: {why}");
                return Err(Error::new(Kind::Refused, message).hint(format!(
                    "to replace it by the backup of cluster {own}, whatever it is, add --force"
                )));
            }
        }
        if let Ok(Some(control)) = control
            && !matches!(control.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
        {
            self.warnings.push(format!(
                "the server of {path} was not shut down, but crashed or was killed. No process of it is \
                 seen on this host: see that none runs elsewhere, as in a container or over a network \
                 file system"
            ));
        }
        Ok(())
    }

    /// Adds the directories that links of the data directory lead to: of its tablespaces, and its WAL.
    fn add_linked(&mut self, place: &Place, host: &dyn Destination) -> Result<()> {
        let spaces = place.path.join("pg_tblspc");
        if host.look(&spaces)?.content == Content::Something {
            for entry in host.list(&spaces)? {
                self.owned.push(host.look(&spaces.join(entry.name()))?.real);
            }
        }
        self.owned.push(host.look(&place.path.join("pg_wal"))?.real);
        Ok(())
    }
}

fn refuse_server(place: &Place) -> Result<()> {
    let Content::DataDirectory { server: Some(process) } = place.content else { return Ok(()) };
    let path = place.path.display();
    let message = format!("a PostgreSQL server runs on {path} (process {process})");
    Err(Error::new(Kind::Refused, message).hint(format!(
        "stop it first: pg_ctl -D {path} stop. If process {process} is no server of PostgreSQL's, remove \
         {path}/postmaster.pid"
    )))
}

/// Proves that a directory is what a restore of the same backup to the same places has left.
fn same_restore(place: &Place, found: Option<&Marker>, wanted: &Marker) -> Result<()> {
    let path = place.path.display();
    let Some(found) = found else {
        let message = format!("there is no unfinished restore in {path}");
        let hint = match place.content {
            Content::Missing | Content::Empty => "leave out --resume: the directory is empty",
            Content::DataDirectory { .. } => "it is a data directory: --delta restores over it",
            _ => "restore into an empty directory, without --resume",
        };
        return Err(Error::new(Kind::Refused, message).hint(hint));
    };
    let of = |marker: &Marker| {
        let Marker { server, system_id, backup_id, .. } = marker;
        format!("backup {backup_id} of server {server}, system identifier {system_id}")
    };
    if of(found) != of(wanted) {
        let message = format!(
            "the unfinished restore in {path} is of {}, and not of {}",
            of(found),
            of(wanted)
        );
        return Err(Error::new(Kind::Refused, message).hint(format!(
            "go on with that one: barman restore {} {} {path} --resume; or restore this one over it \
             with --delta",
            found.server, found.backup_id
        )));
    }
    if found.places != wanted.places {
        let message = format!("the unfinished restore in {path} went to other directories");
        return Err(Error::new(Kind::Refused, message).hint(format!(
            "give the same --tablespace, --waldir and --config-dir as then; {path}/{MARKER} has them"
        )));
    }
    Ok(())
}
