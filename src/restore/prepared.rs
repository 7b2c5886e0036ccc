//! A restore that can be carried out: everything is checked and planned, and nothing is written yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo_format::ids::PackId;
use repo_format::snapshot::Snapshot;

use super::configuration::{Configuration, NewFile, Rewritten};
use super::destination::Destination;
use super::files::{self, Plan};
use super::finish::Rest;
use super::host::Host;
use super::kept::{Kept, ServerFiles};
use super::layout::Layout;
use super::marker::MARKER;
use super::only;
use super::place::Place;
use super::places::Places;
use super::programs::Programs;
use super::reach::{self, Window};
use super::settings::{COPIED_WAL, WalSource};
use super::survey::Survey;
use super::target::Moment;
use super::tree::{PlannedFiles, Tree, read_small};
use super::wal_plan::WalPlan;
use super::{Request, Restored};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::postgres::backup_label::{MappedTablespace, format_tablespace_map};
use crate::postgres::control_file::CONTROL_FILE;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::index::Index;
use crate::repository::reader::Reader;
use crate::repository::references::References;

/// A restore that can be carried out.
#[derive(Debug)]
pub struct Prepared {
    /// The repository.
    pub repository: Arc<Repository>,
    /// What is restored.
    pub snapshot: Snapshot,
    /// How.
    pub request: Request,
    /// Where everything goes, and how much.
    pub layout: Layout,
    /// Who will own it, if not the user who writes it.
    pub owner: Option<String>,
    /// The WAL that is written.
    pub wal: WalPlan,
    /// The moments that recovery can reach, where that is known.
    pub window: Option<Window>,
    /// The programs that the server can be started with.
    pub programs: Option<Programs>,
    /// The `postgresql.conf` that is written, if the backup has one.
    pub main: Option<PathBuf>,
    /// The databases whose data is left out.
    pub without: Vec<String>,
    /// What is changed against the backup, for people.
    pub changes: Vec<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// What is there already, if anything may be.
    pub survey: Survey,
    /// The files that are written as they are.
    pub(super) plan: Arc<Plan>,
    /// The files that are written in place of those of the backup, and new ones.
    pub(super) new_files: Vec<NewFile>,
    /// The control file, which comes last.
    pub(super) control: Control,
    /// The host that it is written to.
    pub destination: Arc<dyn Destination>,
    index: Arc<Index>,
    reader: Arc<Reader>,
}

/// The control file: its bytes, verified, and its time.
#[derive(Debug)]
pub struct Control {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it was last modified, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

impl Prepared {
    /// Checks and plans everything; nothing is written.
    ///
    /// # Errors
    /// For whatever would make the restore fail, or do harm.
    pub async fn new(
        repository: &Arc<Repository>,
        snapshot: &Snapshot,
        request: &Request,
        destination: &Arc<dyn Destination>,
        progress: &Progress,
    ) -> Result<Prepared> {
        let look = {
            let (snapshot, mut request) = (snapshot.clone(), request.clone());
            let destination = destination.clone();
            move || -> Result<_> {
                let layout = Layout::new(&snapshot, &request, destination.as_ref())?;
                request.destination = layout.destination.clone();
                let wanted = request.owner.as_deref();
                let owner = destination.choose_owner(&request.destination, wanted)?;
                Ok((request, layout, owner, Host::of(destination.as_ref())?))
            }
        };
        let (request, mut layout, owner, host) = blocking(look).await?;
        let mut warnings = host.compare(snapshot, request.any_version)?;
        let reached = match request.config_only {
            true => Ok(None),
            false => reach::path(repository, snapshot, &request.target, progress).await.map(Some),
        };
        let path = match reached {
            // A standby goes on asking for WAL that comes later.
            Err(error)
                if request.standby
                    && matches!(request.wal, WalSource::Command(_))
                    && error.kind() == Kind::NotFound =>
            {
                warnings.push(error.to_string());
                None
            }
            path => path?,
        };
        if let Some(path) = path.as_ref().filter(|_| request.target.moment == Moment::Latest)
            && let Some(gap) = path.gap()?
        {
            warnings.push(format!(
                "the archive has WAL after a gap: {gap}; what came after it is not restored"
            ));
        }
        let wal = path.as_ref().map(|path| WalPlan::along(path, snapshot, &request, &mut layout));
        let wal = wal.transpose()?.unwrap_or_default();
        let window = path.as_ref().map(|path| path.window(snapshot)).transpose()?.flatten();
        let index = Arc::new(Index::load(repository).await?);
        let reader = Arc::new(Reader::new(repository.clone(), index.clone()));
        let programs = host.programs(snapshot).cloned();
        let read = {
            let (reader, snapshot, request) = (reader.clone(), snapshot.clone(), request.clone());
            let (programs, host) = (programs.clone(), destination.clone());
            move || {
                read_tree(&reader, &snapshot, &request, layout, programs.as_ref(), host.as_ref())
            }
        };
        let ReadTree { mut layout, plan, control, left_out, without, main, rewritten } =
            blocking(read).await?;
        let place = layout.parts.first().map(|part| &part.place);
        if let Some(place) = place {
            layout.claim.refuse_started(request.onto, place, &control.bytes)?;
        }
        warnings.extend(std::mem::take(&mut layout.claim.warnings));
        let Rewritten { files: new_files, changes: settings, warnings: of_settings } = rewritten;
        let mut changes: Vec<String> =
            left_out.into_iter().map(|name| format!("{name} is left out")).collect();
        changes.extend(moved(&layout, snapshot));
        changes.extend(without.iter().map(|name| format!("database {name} is all zeros")));
        changes.extend(settings);
        warnings.extend(of_settings);
        let mut prepared = Prepared {
            repository: repository.clone(),
            snapshot: snapshot.clone(),
            request,
            layout,
            owner,
            wal,
            window,
            programs,
            main,
            without,
            changes,
            warnings,
            survey: Survey::default(),
            plan: Arc::new(plan),
            new_files,
            control,
            destination: destination.clone(),
            index,
            reader,
        };
        if !prepared.request.config_only {
            prepared.add_own_files();
        }
        let prepared = blocking(move || prepared.surveyed()).await?;
        prepared.layout.check_space()?;
        if prepared.layout.claim.is_in_place() {
            // Nothing is touched before it is known that all can be had.
            prepared.packs().await?;
        }
        Ok(prepared)
    }

    /// The packs that are read. Everything that the backup is made of is looked up for it, so that what
    /// is missing is found.
    pub async fn packs(&self) -> Result<BTreeSet<PackId>> {
        let (reader, index) = (self.reader.clone(), self.index.clone());
        let snapshot = self.snapshot.clone();
        blocking(move || {
            let mut references = References::new(&reader, &index);
            references.follow(&snapshot)?;
            Ok(references.packs)
        })
        .await
    }

    /// The regular files that are written, without WAL.
    pub fn files(&self) -> u64 {
        self.plan.files.len() as u64
    }

    /// The files that are written in place of those of the backup, and new ones.
    pub fn new_files(&self) -> usize {
        self.new_files.len()
    }

    /// The bytes of these files.
    pub fn bytes(&self) -> u64 {
        self.plan.files.iter().map(|planned| planned.file.size).sum()
    }

    /// Writes everything.
    ///
    /// # Errors
    /// Whatever stops it: the directory is no server's then, and the restore can be gone on with.
    pub async fn write(&self, progress: &Progress) -> Result<Restored> {
        self.layout.claim.confirm(&self.layout.destination, self.destination.as_ref())?;
        self.write_all(progress).await.map_err(|error| match self.request.config_only {
            true => error,
            false => resumable(error),
        })
    }

    async fn write_all(&self, progress: &Progress) -> Result<Restored> {
        let (outside, directories) = self.directories();
        for path in &outside {
            self.destination.make_parent(path)?;
        }
        if !self.request.config_only {
            self.begin(progress)?;
        }
        progress.phase("restoring", Some(self.bytes()));
        let written = {
            let (reader, plan, progress) =
                (self.reader.clone(), self.plan.clone(), progress.clone());
            let (destination, threads) = (self.destination.clone(), self.request.threads);
            blocking(move || files::write(&reader, &plan, destination.as_ref(), threads, &progress))
                .await?
        };
        let restored = Restored {
            files: written.len() as u64,
            bytes: written.iter().map(|file| file.size).sum(),
            written: written.iter().map(|file| file.written).sum(),
            wal_files: self.wal.segments().count() as u64,
        };
        let mut rest = Rest { prepared: self, written };
        rest.wal(progress).await?;
        rest.new_files()?;
        if !self.request.config_only {
            rest.manifest()?;
        }
        progress.phase("syncing", None);
        self.destination.sync_directories(&directories)?;
        if !self.request.config_only {
            rest.control_file()?;
        }
        Ok(restored)
    }

    /// Makes it known that a restore is under way, and takes away what must not stay. From here on nothing
    /// can be started until all is done.
    fn begin(&self, progress: &Progress) -> Result<()> {
        let (host, data) = (self.destination.as_ref(), &self.layout.destination);
        if let Some((path, mode)) = self.plan.directories.first() {
            host.make_directory(path, *mode)?;
        }
        host.begin(&data.join(MARKER), &self.layout.marker.encode())?;
        if self.layout.claim.control.is_some() {
            let control = data.join(CONTROL_FILE);
            host.remove(std::slice::from_ref(&control))?;
            host.sync_directories(&[data.join("global")])?;
        }
        if !self.survey.extra.is_empty() {
            progress.phase("removing", None);
            host.remove(&self.survey.extra)?;
        }
        Ok(())
    }

    /// Looks at what is there, where anything may be.
    fn surveyed(mut self) -> Result<Prepared> {
        if !self.layout.claim.is_in_place() || self.request.config_only {
            return Ok(self);
        }
        let data = self.layout.destination.clone();
        let fixed = ["backup_manifest", CONTROL_FILE, MARKER].map(str::to_owned);
        let wal = self.wal.files.iter().flat_map(|wal| {
            let done = format!("pg_wal/archive_status/{}.done", wal.object.file);
            wal.names().chain(wal.is_needed.then_some(done))
        });
        let new = self.new_files.iter().map(|file| file.name.clone());
        let wal_directory = self.layout.wal.clone();
        let replaced = fixed.into_iter().chain(wal).chain(new).map(|name| {
            let in_wal = wal_directory.as_ref().zip(name.strip_prefix("pg_wal/"));
            in_wal.map_or_else(|| data.join(&name), |(directory, rest)| directory.join(rest))
        });
        let replaced: Vec<PathBuf> = replaced.collect();
        let mut plan = Arc::unwrap_or_clone(self.plan);
        let host = self.destination.clone();
        self.survey = Survey::of(host.as_ref(), &mut self.layout, &mut plan, replaced.into_iter())?;
        self.plan = Arc::new(plan);
        self.warnings.append(&mut self.survey.warnings);
        Ok(self)
    }

    /// The directories above the parts that do not exist yet, and all whose entries are new.
    fn directories(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let places = || self.layout.parts.iter().map(|part| &part.place);
        let outside: Vec<PathBuf> = places().flat_map(missing_parents).collect();
        let mut all: Vec<PathBuf> =
            self.plan.directories.iter().map(|(path, _)| path.clone()).collect();
        let above = outside.iter().chain(places().map(|place| &place.real));
        all.extend(above.filter_map(|path| path.parent().map(Path::to_owned)));
        (outside, all)
    }

    /// Adds the files that make PostgreSQL recover, and find its tablespaces.
    fn add_own_files(&mut self) {
        use std::os::unix::ffi::OsStrExt;
        let mut add = |name: &str, content: Vec<u8>| {
            self.new_files.push(NewFile { name: name.to_owned(), content, mode: None });
        };
        let mapped: Vec<MappedTablespace> = self
            .layout
            .tablespaces
            .iter()
            .map(|(oid, path)| MappedTablespace {
                oid: *oid,
                location: path.as_os_str().as_bytes().to_vec(),
            })
            .collect();
        if !mapped.is_empty() {
            // The server makes its links from this at its first start.
            add("tablespace_map", format_tablespace_map(&mapped));
        }
        add(if self.request.standby { "standby.signal" } else { "recovery.signal" }, vec![]);
    }
}

/// What to do about an error that stopped a restore half-way.
pub fn resumable(error: Error) -> Error {
    let resume = "go on with the same command and --resume: what is right already stays. Until then no \
                  server can start on the directory";
    let hint = match error.hint_text() {
        Some(hint) => format!("{hint}; then {resume}"),
        None => resume.to_owned(),
    };
    error.hint(hint)
}

/// What the tree of a backup says.
struct ReadTree {
    layout: Layout,
    plan: Plan,
    control: Control,
    left_out: Vec<String>,
    without: Vec<String>,
    main: Option<PathBuf>,
    rewritten: Rewritten,
}

fn read_tree(
    reader: &Reader,
    snapshot: &Snapshot,
    request: &Request,
    mut layout: Layout,
    programs: Option<&Programs>,
    host: &dyn Destination,
) -> Result<ReadTree> {
    let Tree { mut plan, control, mut left_out } = Tree::walk(reader, snapshot, &mut layout)?;
    let control =
        Control { bytes: read_small(reader, CONTROL_FILE, &control)?, mtime: control.mtime };
    let mut without = vec![];
    if !request.only_databases.is_empty() {
        without = only::leave_others_out(reader, &request.only_databases, &mut plan, &mut layout)?;
    }
    let (main, rewritten) =
        configure(reader, snapshot, request, (&mut layout, &mut plan), programs, host)?;
    if request.config_only {
        left_out.clear();
    } else if request.wal == WalSource::Copied {
        plan.directories.push((layout.destination.join(COPIED_WAL), 0o700));
    }
    Ok(ReadTree { layout, plan, control, left_out, without, main, rewritten })
}

/// Reads the configuration, and plans what is written of it. Returns where its first file will be, too.
fn configure(
    reader: &Reader,
    snapshot: &Snapshot,
    request: &Request,
    (layout, plan): (&mut Layout, &mut Plan),
    programs: Option<&Programs>,
    host: &dyn Destination,
) -> Result<(Option<PathBuf>, Rewritten)> {
    let (places, kept) = (Places::of(snapshot, request), Kept::read(reader, snapshot)?);
    let planned = PlannedFiles::of(reader, plan);
    let files = ServerFiles { places: &places, planned: &planned, kept: &kept };
    let mut configuration = Configuration::read(&files, &places, request)?;
    if let Some(programs) = programs {
        configuration.warn_of_libraries(programs, host)?;
    }
    let main = configuration.main();
    let mut rewritten = configuration.rewrite(request, &snapshot.backup_id);
    let mut directories = kept.add_to(&mut rewritten, &files, request, snapshot)?;
    if let Some(directory) = &request.config_dir {
        directories.insert(0, directory.clone());
    }
    if request.config_only {
        if !kept.has_outside(&places) {
            let message = "the backup has no configuration from outside the data directory";
            return Err(Error::new(Kind::Refused, message));
        }
        *plan = Plan::default();
        rewritten.files.retain(|file| file.name.starts_with('/'));
        directories.retain(|path| !path.starts_with(&layout.destination));
    }
    let replaced: BTreeSet<&[u8]> =
        rewritten.files.iter().map(|file| file.name.as_bytes()).collect();
    plan.leave_out(&replaced);
    for directory in directories {
        // Tools like Debian's look into those outside for every user.
        let is_inside = directory.starts_with(&layout.destination);
        plan.directories.push((directory, if is_inside { 0o700 } else { 0o755 }));
    }
    for file in &rewritten.files {
        let path = layout.destination.join(&file.name);
        if let Some(part) = layout.part_of(&path) {
            part.count(file.content.len() as u64);
        }
    }
    Ok((main, rewritten))
}

/// What is not where it was, for people.
fn moved(layout: &Layout, snapshot: &Snapshot) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt;
    let mut changes = vec![];
    for space in &snapshot.tablespaces {
        if let Some(path) = layout.tablespaces.get(&space.oid)
            && path.as_os_str().as_bytes() != space.location
        {
            changes.push(format!("tablespace {} is in {}", space.name, path.display()));
        }
    }
    changes.extend(layout.wal.iter().map(|path| format!("pg_wal is a link to {}", path.display())));
    changes
}

/// The directories above a place that do not exist, outermost first.
fn missing_parents(place: &Place) -> Vec<PathBuf> {
    let is_missing = |path: &&Path| path.starts_with(&place.existing) && **path != place.existing;
    let above = place.real.ancestors().skip(1).filter(is_missing);
    let mut missing: Vec<PathBuf> = above.map(Path::to_owned).collect();
    missing.reverse();
    missing
}
