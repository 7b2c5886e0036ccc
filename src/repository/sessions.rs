//! Sessions: who writes to the repository now, and whether they still live.
//!
//! A session proves that it lives by its heartbeat: each beat is a new object, and its time is the
//! store's, so that clocks of hosts do not matter. A session that was silent for [`SILENCE`] is
//! dead; one whose process is gone from this very host is dead at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use repo_format::ids::SessionId;
use repo_format::names::{BackupName, ObjectName};
use repo_format::record::Record;
use repo_format::session::{Activity, Session};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::error::{Error, Result};
use super::{Repository, host, now_micros, servers};

/// Time between two beats.
const BEAT: Duration = Duration::from_secs(20);

/// A session without a beat for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(300);

/// How long to wait for another session that is just starting to decide.
const DECISION: Duration = Duration::from_secs(30);

/// A session of this process. It beats until it is ended or dropped.
#[derive(Debug)]
pub struct OwnSession {
    repository: Arc<Repository>,
    id: SessionId,
    /// What it says of itself. Held while it beats, so that no beat is older than the one before it.
    session: Arc<Mutex<Session>>,
    beat: Arc<AtomicU64>,
    /// Whether a beat was found missing once; it does not come back.
    fenced: Arc<AtomicBool>,
    heart: Option<JoinHandle<()>>,
}

/// A session in the store.
#[derive(Debug, Clone)]
pub struct FoundSession {
    /// Its name.
    pub id: SessionId,
    /// What it says of itself; nothing if its latest beat cannot be read.
    pub session: Option<Session>,
    /// The number of its latest beat.
    pub beat: u64,
    /// When that was, by the store's clock.
    pub at: SystemTime,
}

impl OwnSession {
    /// Begins a session: its first beat is in the store when this returns.
    pub async fn begin(repository: Arc<Repository>, activity: Activity) -> Result<Self> {
        let mut id = [0; SessionId::LEN];
        getrandom::fill(&mut id)?;
        let process = std::process::id();
        let session = Session {
            activity,
            host: host::name(),
            boot_id: host::boot_id(),
            process,
            process_start: host::process_start(process).unwrap_or_default(),
            begun_at: now_micros(),
            user: host::user(),
        };
        let mut own = OwnSession {
            repository,
            id: SessionId::from_bytes(id),
            session: Arc::new(Mutex::new(session)),
            beat: Arc::new(AtomicU64::new(0)),
            fenced: Arc::new(AtomicBool::new(false)),
            heart: None,
        };
        own.beat_once().await?;
        own.start_heart();
        Ok(own)
    }

    /// Begins a backup of a server as the only one.
    ///
    /// # Errors
    /// [`Error::Busy`] if another backup of the server is running.
    pub async fn begin_backup(
        repository: Arc<Repository>,
        server: &str,
        backup_id: &str,
    ) -> Result<Self> {
        let server = &servers::stored_name(&repository, server).await?;
        let activity = Activity::Backup {
            server: server.clone(),
            backup_id: backup_id.to_owned(),
            parents: vec![],
            start: None,
        };
        let own = OwnSession::begin(repository, activity).await?;
        match own.claim(server).await {
            Ok(()) => Ok(own),
            Err(error) => {
                own.end().await?;
                Err(error)
            }
        }
    }

    /// Says that the backup is compared with an earlier one, which must not be deleted meanwhile. It is in the store
    /// when this returns.
    pub async fn use_parent(&self, parent: BackupName) -> Result<()> {
        if let Activity::Backup { parents, .. } = &mut self.session.lock().await.activity {
            *parents = vec![parent];
        }
        self.beat_once().await
    }

    /// The name of the session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Whether the session was in the store all the time. If not, it was taken for dead.
    pub async fn is_known(&self) -> Result<bool> {
        let prefix = format!("sessions/{}/", self.id);
        let is_there = !self.repository.storage().list(&prefix).await?.is_empty();
        Ok(is_there && !self.fenced.load(Ordering::SeqCst))
    }

    /// Ends the session.
    pub async fn end(mut self) -> Result<()> {
        self.stop_heart();
        remove(&self.repository, self.id).await
    }

    /// Of two backups of one server, the one that has its second beat goes on; while none has, the
    /// lower id does. Each writes before it looks, so that one of the two always sees the other.
    async fn claim(&self, server: &str) -> Result<()> {
        let waited_since = tokio::time::Instant::now();
        loop {
            let mut undecided = None;
            for other in live(&self.repository).await? {
                let Some(session) = other.session.filter(|_| other.id != self.id) else { continue };
                let Activity::Backup { server: theirs, .. } = &session.activity else { continue };
                if theirs != server {
                    continue;
                }
                if other.beat > 1 || other.id < self.id {
                    return Err(busy(&session));
                }
                undecided = Some(session);
            }
            match undecided {
                None => return self.beat_once().await,
                Some(session) if waited_since.elapsed() > DECISION => {
                    return Err(busy(&session));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn start_heart(&mut self) {
        let (repository, id, session, beat) =
            (self.repository.clone(), self.id, self.session.clone(), self.beat.clone());
        let fenced = self.fenced.clone();
        self.heart = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                let session = session.lock().await;
                if let Ok(false) = last_beat_is_there(&repository, id, &beat).await {
                    fenced.store(true, Ordering::SeqCst);
                }
                if let Err(error) = put_beat(&repository, id, &session, &beat).await {
                    tracing::warn!("a heartbeat did not reach the repository: {error}");
                }
            }
        }));
    }

    fn stop_heart(&mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
    }

    async fn beat_once(&self) -> Result<()> {
        put_beat(&self.repository, self.id, &*self.session.lock().await, &self.beat).await
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        self.stop_heart();
    }
}

/// All sessions in the store.
pub async fn list(repository: &Repository) -> Result<Vec<FoundSession>> {
    let mut found: Vec<FoundSession> = vec![];
    for object in repository.storage().list("sessions/").await? {
        let Some(ObjectName::Session { id, beat }) = ObjectName::parse(&object.name) else {
            continue;
        };
        match found.iter_mut().find(|session| session.id == id) {
            Some(session) if session.beat >= beat => {}
            Some(session) => (session.beat, session.at) = (beat, object.modified),
            None => found.push(FoundSession { id, session: None, beat, at: object.modified }),
        }
    }
    let mut living = vec![];
    for mut session in found {
        if read_beat(repository, &mut session).await? {
            living.push(session);
        }
    }
    Ok(living)
}

/// Reads the newest beat of a session; whether it has not ended. One that goes on beating is read again.
async fn read_beat(repository: &Repository, session: &mut FoundSession) -> Result<bool> {
    loop {
        let name = ObjectName::Session { id: session.id, beat: session.beat };
        match repository.storage().get(&name.to_string()).await {
            Ok(object) => {
                session.session = Session::open(repository.keys(), &name, &object)
                    .inspect_err(|error| tracing::warn!("{name}: {error}"))
                    .ok();
                return Ok(true);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        // It beat again, or ended, since it was listed.
        let beats = repository.storage().list(&format!("sessions/{}/", session.id)).await?;
        let newest = beats.iter().filter_map(|object| match ObjectName::parse(&object.name)? {
            ObjectName::Session { beat, .. } => Some((beat, object.modified)),
            _ => None,
        });
        match newest.max() {
            Some((beat, at)) => (session.beat, session.at) = (beat, at),
            None => return Ok(false),
        }
    }
}

/// The sessions in the store that are not known to be dead.
pub async fn live(repository: &Repository) -> Result<Vec<FoundSession>> {
    Ok(sorted(repository).await?.0)
}

/// The backups that are being made now, by server and id.
pub async fn running_backups(
    repository: &Repository,
) -> Result<BTreeMap<(String, String), Session>> {
    let mut running = BTreeMap::new();
    for found in live(repository).await? {
        let Some(session) = found.session else { continue };
        if let Activity::Backup { server, backup_id, .. } = &session.activity {
            running.insert((server.clone(), backup_id.clone()), session);
        }
    }
    Ok(running)
}

/// The sessions in the store that are known to be dead.
pub async fn dead(repository: &Repository) -> Result<Vec<FoundSession>> {
    Ok(sorted(repository).await?.1)
}

/// The sessions that may live, and those that are known to be dead.
async fn sorted(repository: &Repository) -> Result<(Vec<FoundSession>, Vec<FoundSession>)> {
    let found = list(repository).await?;
    // The newest beat of all is the best reading of the store's clock at hand.
    let now = found.iter().map(|session| session.at).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let lives = |session: &FoundSession| {
        let silent = now.duration_since(session.at).unwrap_or_default() > SILENCE;
        !silent && !session.session.as_ref().is_some_and(is_gone_from_this_host)
    };
    Ok(found.into_iter().partition(lives))
}

/// Whether the session ran on this very boot of this host and its process is no more.
pub fn is_gone_from_this_host(session: &Session) -> bool {
    let boot_id = host::boot_id();
    !boot_id.is_empty()
        && session.boot_id == boot_id
        && session.host == host::name()
        && host::is_gone(session.process, session.process_start)
}

/// Removes a session.
pub async fn remove(repository: &Repository, id: SessionId) -> Result<()> {
    for object in repository.storage().list(&format!("sessions/{id}/")).await? {
        repository.storage().delete(&object.name).await?;
    }
    Ok(())
}

async fn put_beat(
    repository: &Repository,
    id: SessionId,
    session: &Session,
    beat: &AtomicU64,
) -> Result<()> {
    let number = beat.fetch_add(1, Ordering::SeqCst) + 1;
    let name = ObjectName::Session { id, beat: number };
    let object = session.seal(repository.keys(), &name)?;
    repository.storage().put(&name.to_string(), Bytes::from(object)).await?;
    if number > 1 {
        let name = ObjectName::Session { id, beat: number - 1 }.to_string();
        repository.storage().delete(&name).await?;
    }
    Ok(())
}

/// Whether the beat before the next one is in the store. If not, the session was taken for dead.
async fn last_beat_is_there(
    repository: &Repository,
    id: SessionId,
    beat: &AtomicU64,
) -> Result<bool> {
    let name = ObjectName::Session { id, beat: beat.load(Ordering::SeqCst) }.to_string();
    let beats = repository.storage().list(&format!("sessions/{id}/")).await?;
    Ok(beats.iter().any(|object| object.name == name))
}

/// What a session does, for people.
pub fn describe(activity: &Activity) -> String {
    match activity {
        Activity::Backup { server, .. } => format!("a backup of {server}"),
        Activity::EncodeWal { server } => format!("the maintenance of {server}'s WAL"),
        Activity::Read { purpose, .. } => purpose.clone(),
        Activity::Receive { origin } => format!("a copy from {origin}"),
    }
}

/// The error for who has to wait for another session.
pub fn busy(session: &Session) -> Error {
    Error::Busy {
        what: describe(&session.activity),
        host: session.host.clone(),
        process: session.process,
        since: since(session),
    }
}

/// When a session began, for people.
pub fn since(session: &Session) -> String {
    let begun_at = jiff::Timestamp::from_microsecond(session.begun_at).unwrap_or_default();
    begun_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
