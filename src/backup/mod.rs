//! Makes backups: reads a cluster, stores what the repository lacks, and commits a snapshot.
//!
//! The server streams ([`crate::postgres::base_backup`]) and [`copy`] stores the files as they pass, or `local` reads
//! them on the server's host;
//! [`tree`] gathers them, [`pages`] verifies checksums, [`parent`] knows what an earlier backup has, [`changed`] asks for no more than what changed since, [`held`] keeps or streams the WAL, and [`wait`] sees it
//! arrive. What the server runs on is noted by [`environment`], and [`configuration`] keeps what lies outside the
//! data directory.

pub mod changed;
pub mod configuration;
pub mod copy;
pub mod environment;
pub mod held;
mod local;
pub mod pages;
pub mod parent;
pub mod shown;
mod source;
mod space;
mod stream;
pub mod tree;
pub mod wait;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use repo_format::names::ObjectName;
use repo_format::note::{Fact, Failure};
use repo_format::snapshot::{
    Cluster, ConfigFiles, Endpoint, Method, Snapshot, Statistics, Tablespace, WalNeeded,
};

use crate::blocking::blocking;
use crate::catalog::Catalog;
use crate::chunking::page_map::PageMaps;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::postgres::conninfo::{Address, ConnInfo, Host};
use crate::postgres::lsn::SystemId;
use crate::postgres::replication::ReplicationConnection;
use crate::postgres::sql::SqlConnection;
use crate::postgres::wal_name::SegmentSize;
use crate::progress::Progress;
use crate::repository::commit::commit;
use crate::repository::sessions::OwnSession;
use crate::repository::snapshots::{self, next_in_order};
use crate::repository::writer::{Writer, WriterOptions};
use crate::repository::{Repository, aftermath, host, maintenance, notes, now_micros, servers};
use crate::wal::receive::Source;
use changed::{Plan, Reading};
use held::{Connected, HeldWal};
use parent::{KnownPages, Parent};
use source::{Means, Read};

/// A backup that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The server.
    pub server: String,
    /// How to connect for SQL.
    pub sql: ConnInfo,
    /// How to connect for replication.
    pub replication: ConnInfo,
    /// Whether the server streams its files, or they are read on this host.
    pub method: Method,
    /// The name that the user gives the backup.
    pub name: Option<String>,
    /// Whether it begins with a checkpoint at once.
    pub fast_checkpoint: bool,
    /// The highest rate at which the server sends, in KiB/s.
    pub max_rate: Option<u32>,
    /// Threads that compress.
    pub threads: usize,
    /// The level of zstd.
    pub level: i32,
    /// Whether of pages that changed only the difference may be stored.
    pub deltas: bool,
    /// What the repository sets aside, in bytes; `None` is what is usual.
    pub reserve: Option<u64>,
    /// Whether it is refused when it is not expected to find room.
    pub needs_room: bool,
    /// Whether the WAL that it needs is streamed, and not left to the server's archiving.
    pub stream_wal: bool,
    /// What it is compared with.
    pub incremental: Incremental,
    /// What is read of the server.
    pub reading: Reading,
    /// The page maps of the server on this host.
    pub page_maps: PageMaps,
}

impl Request {
    /// A backup of `server` that begins at once, with all else as it is usual.
    pub fn new(server: &str, sql: ConnInfo, replication: ConnInfo, page_maps: PageMaps) -> Self {
        Request {
            server: server.to_owned(),
            sql,
            replication,
            method: Method::Stream,
            name: None,
            fast_checkpoint: true,
            max_rate: None,
            threads: 2,
            level: 3,
            deltas: true,
            reserve: None,
            needs_room: true,
            stream_wal: false,
            incremental: Incremental::Auto,
            reading: Reading::Auto,
            page_maps,
        }
    }
}

/// The backup that another one is compared with, so that what did not change is neither read again nor stored again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Incremental {
    /// The newest one of the cluster.
    #[default]
    Auto,
    /// None: what the repository has is found by the content of chunks alone.
    None,
    /// This one.
    On(String),
}

/// A backup whose files are in the repository.
#[derive(Debug)]
pub struct Made {
    /// What it is.
    pub snapshot: Snapshot,
    /// Whether everything was read, and not only the pages that changed since its parent.
    pub read_in_full: bool,
    /// Why everything was read though there was a parent, if the user did not ask for it.
    pub why_full: Option<String>,
    /// The WAL that it needs, kept on the server until this is dropped, or still being streamed.
    pub wal: HeldWal,
}

/// Makes a backup. When this returns, its files are in the repository; the WAL that it needs may
/// still be on its way.
///
/// # Errors
/// Whatever fails, and when a signal ends it, the backup is noted as failed with the reason, and earlier
/// backups are untouched.
pub async fn back_up(
    repository: &Arc<Repository>,
    request: &Request,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Made> {
    let catalog = Catalog::load(repository, &request.server).await?;
    if let Some(name) = &request.name {
        catalog.check_new_name(name)?;
    }
    let wanted = match &request.incremental {
        Incremental::On(id) => Some(wanted_parent(&catalog, id)?),
        Incremental::Auto | Incremental::None => None,
    };
    aftermath::settle(repository).await?;
    let begun_at = now_micros();
    let backup_id = free_id(repository, &request.server, begun_at).await?;
    let session = OwnSession::begin_backup(repository.clone(), &request.server, &backup_id).await?;
    let mut attempt = Attempt {
        repository,
        request,
        progress,
        session: &session,
        backup_id: &backup_id,
        begun_at,
        wanted,
        reading: request.reading,
        system_id: None,
    };
    // Dropping the attempt closes the connection, with which the server ends the backup on its side.
    let made = interrupt.unless(Box::pin(attempt.run_or_read_all())).await;
    if let Err(error) = &made {
        let failure = Failure {
            reason: error.to_string(),
            begun_at,
            name: request.name.clone(),
            system_id: attempt.system_id.map(|id| id.0),
        };
        let fact = Fact::Failed(failure);
        if let Err(e) = notes::add(repository, &request.server, &backup_id, fact).await {
            // Its session stays, so that whoever finds it dead looks what became of the backup.
            tracing::warn!("backup {backup_id} failed, and that could not be noted: {e}");
            return made;
        }
    }
    if let Err(error) = session.end().await {
        tracing::warn!("the session could not be ended: {error}");
    }
    made
}

/// One attempt at a backup.
struct Attempt<'a> {
    repository: &'a Arc<Repository>,
    request: &'a Request,
    progress: &'a Progress,
    session: &'a OwnSession,
    backup_id: &'a str,
    begun_at: i64,
    /// The parent that was asked for.
    wanted: Option<Snapshot>,
    reading: Reading,
    system_id: Option<SystemId>,
}

impl Attempt<'_> {
    /// Makes the backup; where what the parent has is damaged, by reading everything.
    async fn run_or_read_all(&mut self) -> Result<Made> {
        match Box::pin(self.run()).await {
            Err(error) if error.kind() == Kind::Damaged && self.reading != Reading::Full => {
                tracing::warn!("everything is read again: {error}");
                self.reading = Reading::Full;
                Box::pin(self.run()).await
            }
            made => made,
        }
    }

    async fn run(&mut self) -> Result<Made> {
        let mut replication = ReplicationConnection::connect(&self.request.replication).await?;
        // Of several hosts, the one that is read is asked too.
        let (host, from_standby) = (replication.host().clone(), replication.is_standby());
        let sql_there = self.request.sql.at(&host);
        let sql = SqlConnection::connect(&sql_there).await?;
        let facts = ServerFacts::ask(&sql).await;
        sql.close().await;
        let mut facts = facts?;
        let found = match (&facts.data_directory, &mut facts.config_files) {
            (Some(data), Some(files)) => {
                let found = Box::pin(configuration::ask(&sql_there, data, files)).await;
                files.included = found.included();
                found
            }
            _ => configuration::Found::default(),
        };
        let environment = Box::pin(environment::ask(&sql_there)).await;
        let system = replication.identify_system().await?;
        self.system_id = Some(system.system_id);
        if system.system_id != facts.system_id {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "conninfo leads to the cluster with system identifier {}, and \
                     streaming_conninfo to {}",
                    facts.system_id, system.system_id
                ),
            )
            .hint("make both lead to the same server"));
        }
        // Before anything is read, and again when it is committed.
        let (server, id) = (&self.request.server, system.system_id.0);
        servers::require_system(self.repository, server, id, "the server").await?;
        self.require_room(&facts).await?;
        // Before the index is read, which then has all of it.
        let parent = self.parent(system.system_id).await?;
        if let Some(parent) = &parent {
            self.session.use_parent(parent.backup_name()).await?;
        }
        let doomed = maintenance::doomed_packs(self.repository).await?;
        let index = Arc::new(maintenance::usable_index(self.repository, &doomed).await?);
        let Request { threads, level, deltas, .. } = *self.request;
        let options = WriterOptions { threads, level, deltas };
        let writer = Writer::new(self.repository.clone(), index, options)?;
        let known = self.known_pages(&writer, parent.as_ref());
        let wal = self.hold_wal(&host, &facts).await?;
        let plan = match self.request.method {
            Method::Local => Plan::Full(None),
            _ => changed::plan(self.reading, parent.as_ref().zip(known.parent.as_ref()), &facts),
        };
        let manifest = match (&plan, &parent) {
            (Plan::Changed { .. }, Some(parent)) => {
                let (reader, parent) = (writer.reader().clone(), parent.clone());
                Some(blocking(move || changed::manifest(&reader, &parent)).await?)
            }
            _ => None,
        };
        let means = Means { replication, writer, known, manifest, wal };
        let taken = match self.request.method {
            Method::Local => {
                let sql = SqlConnection::connect(&sql_there).await?;
                Box::pin(local::take(self.request, &facts, sql, means, self.progress)).await?
            }
            _ => Box::pin(stream::stream(self.request, &facts, means, self.progress)).await?,
        };
        self.progress.phase("finishing", None);
        let (mut copied, mut writer) = (taken.copied, taken.writer);
        let page_map = copied.page_map.take();
        let keys = self.repository.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let keys = keys.keys().naming();
            let configuration = found.store(&copied.tree, &mut writer, keys)?;
            let root = copied.tree.finish(&mut writer, keys)?;
            Ok::<_, Error>((root, configuration, writer.finish()?))
        });
        let (root, configuration, written) =
            stored.await.unwrap_or_else(|p| std::panic::resume_unwind(p.into_panic()))?;
        let existing = snapshots::of_server(self.repository, &self.request.server).await?;
        let (sequence, previous) = next_in_order(&existing);
        let (start, stop) = (taken.start, taken.stop);
        let read_in_full = taken.reading != Read::Changed;
        let control = copied.control;
        let bad_pages = copied.pages.finish(start.lsn, stop.lsn);
        let server = servers::stored_name(self.repository, &self.request.server).await?;
        let parent = parent.filter(|parent| parent.server == server).map(|p| p.backup_id);
        let snapshot = Snapshot {
            server,
            system_id: control.system_id.0,
            backup_id: self.backup_id.to_owned(),
            sequence,
            previous,
            name: self.request.name.clone(),
            begun_at: self.begun_at,
            ended_at: now_micros(),
            host: host::name(),
            program: concat!("barman ", env!("CARGO_PKG_VERSION")).to_owned(),
            method: self.request.method,
            cluster: Cluster {
                version: facts.version,
                catalog_version: control.catalog_version,
                block_size: control.block_size,
                wal_segment_size: u32::try_from(control.wal_segment_size.bytes())
                    .unwrap_or(u32::MAX),
                data_checksums: control.checksum_version,
                endpoint: Some(endpoint(&host)),
                from_standby,
                summarize_wal: facts.summarize_wal,
                data_directory: facts.data_directory,
                config_files: facts.config_files,
                size: facts.size,
            },
            environment,
            wal: WalNeeded {
                start_lsn: start.lsn.0,
                start_timeline: start.timeline.0,
                stop_lsn: stop.lsn.0,
                stop_timeline: stop.timeline.0,
            },
            root,
            root_mode: taken.directory_mode,
            configuration,
            tablespaces: copied
                .tablespaces
                .into_iter()
                .map(|space| Tablespace {
                    oid: space.oid,
                    name: facts.tablespace_names.get(&space.oid).cloned().unwrap_or_default(),
                    location: space.location,
                })
                .collect(),
            bad_pages,
            trusted: read_in_full || matches!(plan, Plan::Changed { is_safe: true }),
            parent,
            statistics: Statistics {
                files: copied.files,
                bytes: copied.bytes,
                zero_bytes: copied.zero_bytes,
                new_bytes: written.new_bytes,
                stored_bytes: written.stored_bytes,
                new_chunks: written.new_chunks,
                copy_micros: u64::try_from(taken.copy_began.elapsed().as_micros())
                    .unwrap_or(u64::MAX),
            },
            signature: None,
        };
        commit(self.repository, self.session, &snapshot).await?;
        if let Some(map) = page_map {
            let keep = || self.request.page_maps.keep(map.finish()?, &snapshot.backup_id);
            keep().unwrap_or_else(|error| not_kept(&error));
        }
        let why_full = match (taken.reading, plan) {
            (Read::FullAfterRefusal(why), _) => Some(format!("the server refused: {why}")),
            (Read::Full, Plan::Full(why)) => why,
            _ => None,
        };
        Ok(Made { snapshot, read_in_full, why_full, wal: taken.wal })
    }

    /// The backup that this one is compared with.
    async fn parent(&self, system: SystemId) -> Result<Option<Snapshot>> {
        if self.request.incremental == Incremental::None {
            return Ok(None);
        }
        if let Some(wanted) = &self.wanted {
            if wanted.system_id == system.0 {
                return Ok(Some(wanted.clone()));
            }
            let message = format!(
                "backup {} is of the cluster with system identifier {}, and the server's is {system}",
                wanted.backup_id, wanted.system_id
            );
            return Err(Error::new(Kind::Refused, message).hint("leave out --incremental"));
        }
        let existing = snapshots::of_server(self.repository, &self.request.server).await?;
        Ok(parent::newest(self.repository, &existing, system.0).await?)
    }

    fn known_pages(&self, writer: &Writer, parent: Option<&Snapshot>) -> KnownPages {
        let maps = &self.request.page_maps;
        let own = maps.create().inspect_err(not_kept).ok();
        let parent = parent.map(|parent| Parent::new(writer.reader().clone(), parent, maps));
        KnownPages { parent, own }
    }

    /// Opens the connection that keeps or streams the WAL, to the host that is read.
    async fn hold_wal(&self, host: &Host, facts: &ServerFacts) -> Result<HeldWal> {
        let there = self.request.replication.at(host);
        // Of this session alone, so that it is never the slot of anybody else.
        let slot = format!("barman_backup_{}", self.session.id());
        if !self.request.stream_wal {
            let connected = Box::pin(Connected::open_if_possible(&there, &slot)).await;
            return Ok(HeldWal::hold(connected, None));
        }
        let connected = Box::pin(Connected::open(&there, &slot)).await?;
        let source = Source {
            repository: self.repository.clone(),
            server: self.request.server.clone(),
            system_id: facts.system_id,
            segment_size: facts.segment_size,
            slot: connected.slot(),
        };
        Ok(HeldWal::hold(Some(connected), Some(source)))
    }

    /// Sees that the repository has its reserve, and room for what is expected to be new.
    async fn require_room(&self, facts: &ServerFacts) -> Result<()> {
        let storage = self.repository.storage();
        if let Err(error) = storage.ensure_reserve(self.request.reserve).await {
            tracing::warn!(
                "no space is set aside for emptying a full disk: {error}: {}",
                error.cause
            );
        }
        if !self.request.needs_room {
            return Ok(());
        }
        let (server, system) = (&self.request.server, facts.system_id.0);
        let earlier = space::earlier(self.repository, server, system).await?;
        let expected = space::expected(facts.size, &earlier);
        space::require(self.repository, expected, self.request.reserve).await
    }
}

/// What SQL tells of a server before a backup.
#[derive(Debug)]
struct ServerFacts {
    system_id: SystemId,
    version: u32,
    segment_size: SegmentSize,
    checksums: bool,
    summarize_wal: Option<bool>,
    data_directory: Option<String>,
    config_files: Option<ConfigFiles>,
    tablespace_names: BTreeMap<u32, String>,
    /// Whether a tablespace is a directory in `pg_tblspc` itself (`allow_in_place_tablespaces`).
    has_tablespaces_in_place: bool,
    size: u64,
}

impl ServerFacts {
    async fn ask(sql: &SqlConnection) -> Result<Self> {
        let settings = sql.settings(&["data_checksums", "summarize_wal"]).await?;
        let on = |name: &str| settings.get(name).map(|value| value == "on");
        let tablespaces = sql.tablespaces().await?;
        Ok(ServerFacts {
            system_id: sql.system_id().await?,
            version: sql.server_version_num().await?,
            segment_size: sql.wal_segment_size().await?,
            checksums: on("data_checksums").unwrap_or(false),
            summarize_wal: on("summarize_wal"),
            // Roles without pg_read_all_settings cannot see paths, and a backup does not need them.
            data_directory: sql.data_directory().await.ok(),
            config_files: sql
                .configuration_files()
                .await
                .ok()
                .map(|[config, hba, ident]| ConfigFiles { config, hba, ident, included: vec![] }),
            has_tablespaces_in_place: tablespaces
                .iter()
                .any(|space| space.location.starts_with("pg_tblspc/")),
            tablespace_names: tablespaces.into_iter().map(|t| (t.oid, t.name)).collect(),
            size: sql.total_size().await.unwrap_or_default(),
        })
    }
}

/// The backup that a new one shall be compared with.
fn wanted_parent(catalog: &Catalog, id: &str) -> Result<Snapshot> {
    let backup = catalog.find(id)?;
    backup.snapshot.clone().ok_or_else(|| {
        let message = format!("backup {} cannot be compared with: it failed", backup.id);
        Error::new(Kind::Refused, message)
    })
}

/// What a host cannot keep is only missed by the next backup.
fn not_kept(error: &io::Error) {
    tracing::warn!("the hashes of pages are not kept for the next backup: {error}");
}

/// A host as it is noted with a backup.
fn endpoint(host: &Host) -> Endpoint {
    let name = match &host.address {
        Address::Unix(directory) => directory.display().to_string(),
        Address::Tcp { name, .. } => name.clone(),
    };
    Endpoint { host: name, port: host.port }
}

/// The id for a backup that begins at `begun_at`: that second in UTC, or the next that is free.
async fn free_id(repository: &Repository, server: &str, begun_at: i64) -> Result<String> {
    let mut taken: Vec<String> = snapshots::names(repository, Some(server))
        .await?
        .into_iter()
        .map(|name| name.backup_id)
        .collect();
    let stored = servers::stored_name(repository, server).await?;
    let prefix = format!("notes/{}/", repo_format::names::escape(&stored));
    let notes = repository.storage().list(&prefix).await?;
    taken.extend(notes.iter().filter_map(|object| match ObjectName::parse(&object.name)? {
        ObjectName::Note { backup_id, .. } => Some(backup_id),
        _ => None,
    }));
    let mut time = jiff::Timestamp::from_microsecond(begun_at)
        .map_err(|e| Error::new(Kind::Io, "this host's clock is out of range").because(e))?;
    loop {
        let id = time.strftime("%Y%m%dT%H%M%S").to_string();
        if !taken.contains(&id) {
            return Ok(id);
        }
        time += jiff::SignedDuration::from_secs(1);
    }
}
