//! What a server's name stands for: the cluster that may add to its history, and where that history is.
//!
//! A server is bound to a cluster by its first backup; another one must be accepted. A server that was
//! renamed keeps its objects under its first name, its *stored name*: whoever names objects by a server
//! asks [`stored_name`] for it.

use std::collections::BTreeSet;

use bytes::Bytes;
use repo_format::DecodeError;
use repo_format::limits::MAX_SYSTEMS;
use repo_format::names::{ObjectName, escape, is_server_name};
use repo_format::record::Record;
use repo_format::server::{AcceptedSystem, History, ServerRecord};

use super::error::{Error, Result};
use super::{Repository, host, now_micros, sessions, snapshots};

/// The kinds of objects that make up a server's history.
const HISTORY: [&str; 4] = ["snapshots", "notes", "wal", "conflicts"];

/// The name under which the objects of `server` are stored. A stored name is its own.
pub async fn stored_name(repository: &Repository, server: &str) -> Result<String> {
    match repository.known_server(server) {
        Some(known) => Ok(known),
        None => Ok(resolve(repository, server).await?.0),
    }
}

/// The clusters that may add to the history of `server`: the one that was accepted last, or else those of
/// its snapshots; with none, any may.
pub async fn systems(repository: &Repository, server: &str) -> Result<Vec<u64>> {
    let (stored, newest) = resolve(repository, server).await?;
    let accepted = newest.systems().last().map(|system| system.system_id);
    let mut systems: Vec<u64> = accepted.into_iter().collect();
    if systems.is_empty() || newest.damage.is_some() {
        let names = snapshots::names(repository, Some(&stored)).await?;
        systems.extend(names.iter().map(|name| name.system_id));
        systems.sort_unstable();
        systems.dedup();
    }
    match newest.damage {
        Some(damage) if systems.is_empty() => Err(damage),
        _ => Ok(systems),
    }
}

/// Refuses to add to the history of `server` what is of another cluster than the one it stands for;
/// `what` names it for people.
pub async fn require_system(
    repository: &Repository,
    server: &str,
    system_id: u64,
    what: &str,
) -> Result<()> {
    let accepted = systems(repository, server).await?;
    match accepted.last() {
        Some(last) if !accepted.contains(&system_id) => Err(Error::OtherSystem {
            server: server.to_owned(),
            accepted: *last,
            what: what.to_owned(),
            found: system_id,
        }),
        _ => Ok(()),
    }
}

/// Binds `server` to the cluster of its first backup; later ones only must be of the same.
///
/// # Errors
/// [`Error::OtherSystem`] if it stands for another cluster.
pub async fn bind(
    repository: &Repository,
    server: &str,
    system_id: u64,
    backup_id: &str,
) -> Result<()> {
    loop {
        require_system(repository, server, system_id, &format!("backup {backup_id}")).await?;
        let (stored, newest) = resolve(repository, server).await?;
        let is_bound = newest.damage.is_none() && !newest.systems().is_empty();
        if is_bound
            || put(repository, &stored, newest.number + 1, newest.accepting(system_id)).await?
        {
            return Ok(());
        }
    }
}

/// Makes a cluster the one that `server` stands for; says which one it was before, if any. A record that is
/// damaged is put right.
pub async fn accept(repository: &Repository, server: &str, system_id: u64) -> Result<Option<u64>> {
    loop {
        let before = systems(repository, server).await.unwrap_or_default().last().copied();
        let (stored, newest) = resolve(repository, server).await?;
        let accepts = newest.systems().last().is_some_and(|last| last.system_id == system_id);
        if accepts && newest.damage.is_none() {
            return Ok(before);
        }
        if put(repository, &stored, newest.number + 1, newest.accepting(system_id)).await? {
            return Ok(before);
        }
    }
}

/// Gives the history of `old` the name `new`: from now on `new` leads to the objects of `old`, and so does
/// `old`. Where the objects are stored under `new` already, `old` is given up instead.
///
/// # Errors
/// [`Error::NoHistory`] if there is nothing of `old`; [`Error::HasHistory`] if `new` stands for anything.
pub async fn rename(repository: &Repository, old: &str, new: &str) -> Result<()> {
    if !is_server_name(new) {
        return Err(Error::ServerName { name: new.to_owned() });
    }
    let (stored, known) = resolve(repository, old).await?;
    if stored == new {
        let given_up = newest(repository, old).await?.number + 1;
        return put_last(repository, old, given_up, History::default()).await;
    }
    if known.systems().is_empty() && !has_objects(repository, &stored).await? {
        return Err(Error::NoHistory { server: old.to_owned() });
    }
    let has_history = || Error::HasHistory { server: new.to_owned() };
    let leads_here = History::Elsewhere { server: stored };
    let known = newest(repository, new).await?;
    match (&known.history, &known.damage) {
        // What a damaged record said is lost; that it says this is what the user asks for.
        (_, Some(_)) => {}
        (history, None) if *history == leads_here => return Ok(()),
        (History::Here { systems }, None) if systems.is_empty() => {}
        _ => return Err(has_history()),
    }
    let running = sessions::running_backups(repository).await?;
    if running.keys().any(|(server, _)| server == new) || has_objects(repository, new).await? {
        return Err(has_history());
    }
    put_last(repository, new, known.number + 1, leads_here).await?;
    // Something may have come under the new name meanwhile: one of the two sees the other.
    if has_objects(repository, new).await? {
        put_last(repository, new, known.number + 2, History::default()).await?;
        return Err(has_history());
    }
    Ok(())
}

/// The names that servers got when they were renamed. A damaged record says nothing.
pub async fn renamed(repository: &Repository) -> Result<Vec<String>> {
    let listed = repository.storage().list("servers/").await?;
    let name = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Server { server, .. } => Some(server),
        _ => None,
    };
    let names: BTreeSet<String> = listed.iter().filter_map(|object| name(&object.name)).collect();
    let mut renamed = vec![];
    for name in names {
        match stored_name(repository, &name).await {
            Ok(stored) if stored == name => {}
            Ok(_) => renamed.push(name),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("server {name} is left out: {error}")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(renamed)
}

/// What the records of one name say.
#[derive(Debug)]
struct Newest {
    /// The highest number of a record; 0 without any.
    number: u64,
    /// What the highest one that can be read says.
    history: History,
    /// Why the highest one does not count, if it cannot be read.
    damage: Option<Error>,
}

impl Newest {
    /// The clusters that were accepted.
    fn systems(&self) -> &[AcceptedSystem] {
        match &self.history {
            History::Here { systems } => systems,
            History::Elsewhere { .. } => &[],
        }
    }

    /// The same, with `system_id` as the last one; the oldest are forgotten where there are too many.
    fn accepting(&self, system_id: u64) -> History {
        let mut systems = self.systems().to_vec();
        if systems.last().is_none_or(|last| last.system_id != system_id) {
            systems.push(AcceptedSystem { system_id, at: now_micros() });
        }
        let over = systems.len().saturating_sub(MAX_SYSTEMS);
        systems.drain(..over);
        History::Here { systems }
    }
}

/// Where the objects of `server` are stored, and what the records of that name say.
///
/// # Errors
/// If its record is damaged, and it has no objects of its own: it may lead elsewhere.
async fn resolve(repository: &Repository, server: &str) -> Result<(String, Newest)> {
    let known = repository.known_server(server).unwrap_or_else(|| server.to_owned());
    let own = newest(repository, &known).await?;
    let (stored, newest) = match (&own.history, own.damage) {
        (_, Some(damage)) if !has_objects(repository, &known).await? => return Err(damage),
        (History::Elsewhere { server }, None) => {
            (server.clone(), newest(repository, server).await?)
        }
        (_, damage) => (known, Newest { damage, ..own }),
    };
    repository.know_server(server, &stored);
    Ok((stored, newest))
}

/// Reads the newest record of exactly this name.
async fn newest(repository: &Repository, server: &str) -> Result<Newest> {
    let listed = repository.storage().list(&format!("servers/{}/", escape(server))).await?;
    let number = |name: &str| match ObjectName::parse(name)? {
        ObjectName::Server { number, .. } => Some(number),
        _ => None,
    };
    let mut numbers: Vec<u64> = listed.iter().filter_map(|object| number(&object.name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let mut newest = Newest {
        number: numbers.first().copied().unwrap_or(0),
        history: History::default(),
        damage: None,
    };
    for number in numbers {
        let name = ObjectName::Server { server: server.to_owned(), number };
        let object = repository.storage().get(&name.to_string()).await?;
        match ServerRecord::open(repository.keys(), &name, &object) {
            Ok(record) => {
                newest.history = record.history;
                break;
            }
            Err(error) => {
                tracing::warn!("{name} is damaged: {error}");
                let is_newer = matches!(error, DecodeError::Version { .. });
                let error = Error::damaged(name.to_string(), error);
                if is_newer {
                    return Err(error);
                }
                newest.damage.get_or_insert(error);
            }
        }
    }
    Ok(newest)
}

/// Whether there is anything that was stored under exactly this name.
async fn has_objects(repository: &Repository, server: &str) -> Result<bool> {
    for kind in HISTORY {
        let listed = repository.storage().list(&format!("{kind}/{}/", escape(server))).await?;
        if listed.iter().any(|object| ObjectName::parse(&object.name).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts a record; whether its number was free.
async fn put(repository: &Repository, server: &str, number: u64, history: History) -> Result<bool> {
    let name = ObjectName::Server { server: server.to_owned(), number };
    let record = ServerRecord { at: now_micros(), host: host::name(), history };
    let object = Bytes::from(record.seal(repository.keys(), &name)?);
    match repository.storage().put(&name.to_string(), object).await {
        Err(error) if error.already_exists() => Ok(false),
        put => {
            put?;
            repository.forget_servers();
            Ok(true)
        }
    }
}

/// Puts a record that was decided by what the one before says.
///
/// # Errors
/// [`Error::Changed`] if somebody else was faster.
async fn put_last(
    repository: &Repository,
    server: &str,
    number: u64,
    history: History,
) -> Result<()> {
    if put(repository, server, number, history).await? {
        return Ok(());
    }
    Err(Error::Changed { server: server.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use repo_format::config::{Chunking, Packing};
    use repo_format::keys::Secret;
    use repo_format::slot::Credential;

    use super::*;
    use crate::repository::slots::{NewSlot, PasswordCost};
    use crate::storage::Storage;
    use crate::storage::local::LocalStorage;

    struct Place {
        directory: tempfile::TempDir,
        key: Credential,
    }

    impl Place {
        fn storage(&self) -> Arc<dyn Storage> {
            Arc::new(LocalStorage::new(self.directory.path().join("repository")))
        }

        /// As another program opens it: with nothing remembered.
        async fn open(&self) -> Repository {
            let access = crate::repository::Access::Write;
            Repository::open(self.storage(), &self.key, access).await.unwrap()
        }

        fn object(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join("repository").join(name)
        }

        /// Turns a byte of an object's box.
        fn damage(&self, name: &str) {
            let mut bytes = std::fs::read(self.object(name)).unwrap();
            bytes[60] ^= 1;
            std::fs::remove_file(self.object(name)).unwrap();
            std::fs::write(self.object(name), bytes).unwrap();
        }
    }

    async fn place() -> (Place, Repository) {
        let directory = tempfile::tempdir().unwrap();
        let key = Credential::KeyFile(Secret::from_bytes([7; 32]));
        let place = Place { directory, key };
        let slot = NewSlot {
            credential: Credential::KeyFile(Secret::from_bytes([7; 32])),
            label: String::new(),
            cost: PasswordCost::default(),
        };
        let created =
            Repository::create(place.storage(), &slot, Chunking::default(), Packing::default());
        let repository = created.await.unwrap();
        (place, repository)
    }

    /// Some object of a server's history.
    async fn put_history(repository: &Repository, server: &str) {
        let fact = repo_format::note::Fact::Release;
        crate::repository::notes::add(repository, server, "20260101T000000", fact).await.unwrap();
    }

    fn is_other(result: &Result<()>, was: u64, is: u64) -> bool {
        matches!(result, Err(Error::OtherSystem { accepted, found, .. })
            if (*accepted, *found) == (was, is))
    }

    #[tokio::test]
    async fn the_first_backup_binds_and_only_accepting_changes_it() {
        let (place, repository) = place().await;
        for system in [1, 2] {
            require_system(&repository, "main", system, "WAL").await.unwrap();
        }
        bind(&repository, "main", 1, "b").await.unwrap();
        bind(&repository, "main", 1, "c").await.unwrap();
        assert!(is_other(&bind(&repository, "main", 2, "d").await, 1, 2));
        let other = place.open().await;
        assert!(is_other(&require_system(&other, "main", 2, "WAL").await, 1, 2));
        require_system(&other, "another", 2, "WAL").await.unwrap();
        assert!(!place.object("servers/main/2").exists(), "later backups write nothing");

        assert_eq!(accept(&other, "main", 2).await.unwrap(), Some(1));
        assert_eq!(accept(&other, "main", 2).await.unwrap(), Some(2));
        assert!(!place.object("servers/main/3").exists(), "what is known is not put again");
        assert!(is_other(&require_system(&repository, "main", 1, "WAL").await, 2, 1));
        assert_eq!(accept(&repository, "main", 1).await.unwrap(), Some(2));
        require_system(&other, "main", 1, "WAL").await.unwrap();
    }

    #[tokio::test]
    async fn of_two_first_backups_at_once_one_binds() {
        let (place, _) = place().await;
        let programs = [place.open().await, place.open().await];
        let bound =
            futures::join!(bind(&programs[0], "main", 1, "a"), bind(&programs[1], "main", 2, "b"));
        match bound {
            (Ok(()), other) => assert!(is_other(&other, 1, 2), "{other:?}"),
            (other, Ok(())) => assert!(is_other(&other, 2, 1), "{other:?}"),
            both => panic!("{both:?}"),
        }
    }

    #[tokio::test]
    async fn a_renamed_server_is_found_under_both_names() {
        let (place, repository) = place().await;
        let refused = rename(&repository, "old", "new").await;
        assert!(matches!(refused, Err(Error::NoHistory { .. })), "{refused:?}");
        bind(&repository, "old", 1, "b").await.unwrap();
        put_history(&repository, "old").await;
        rename(&repository, "old", "new").await.unwrap();
        rename(&repository, "old", "new").await.unwrap();
        let other = place.open().await;
        for name in ["old", "new"] {
            assert_eq!(stored_name(&other, name).await.unwrap(), "old");
            assert!(is_other(&require_system(&other, name, 2, "WAL").await, 1, 2));
        }
        put_history(&other, "new").await;
        assert!(place.object("notes/old/20260101T000000/2").exists());

        assert_eq!(renamed(&other).await.unwrap(), ["new"]);

        // Again, and accepted under the newest name: all is of the first one.
        rename(&other, "new", "newest").await.unwrap();
        accept(&other, "newest", 2).await.unwrap();
        assert_eq!(systems(&repository, "old").await.unwrap(), [2]);
        assert_eq!(stored_name(&repository, "newest").await.unwrap(), "old");

        // Back: the other name is free, and may be given to another server.
        rename(&repository, "new", "old").await.unwrap();
        assert_eq!(stored_name(&place.open().await, "new").await.unwrap(), "new");
        put_history(&repository, "third").await;
        rename(&repository, "third", "new").await.unwrap();
        assert_eq!(stored_name(&place.open().await, "new").await.unwrap(), "third");
    }

    #[tokio::test]
    async fn a_name_that_stands_for_something_is_not_given_away() {
        let (_place, repository) = place().await;
        put_history(&repository, "one").await;
        put_history(&repository, "two").await;
        bind(&repository, "bound", 1, "b").await.unwrap();
        rename(&repository, "two", "alias").await.unwrap();
        for name in ["two", "bound", "alias"] {
            let refused = rename(&repository, "one", name).await;
            assert!(matches!(refused, Err(Error::HasHistory { .. })), "{name}: {refused:?}");
        }
        let refused = rename(&repository, "one", "").await;
        assert!(matches!(refused, Err(Error::ServerName { .. })), "{refused:?}");
        assert_eq!(stored_name(&repository, "one").await.unwrap(), "one");
    }

    #[tokio::test]
    async fn a_damaged_record_never_makes_a_server_a_new_one() {
        let (place, repository) = place().await;
        put_history(&repository, "main").await;
        bind(&repository, "main", 1, "b").await.unwrap();
        accept(&repository, "main", 2).await.unwrap();
        rename(&repository, "main", "new").await.unwrap();
        place.damage("servers/main/2");
        place.damage("servers/new/1");

        let other = place.open().await;
        assert_eq!(stored_name(&other, "main").await.unwrap(), "main", "it has objects");
        assert!(is_other(&require_system(&other, "main", 2, "WAL").await, 1, 2));
        let lost = stored_name(&other, "new").await;
        assert!(matches!(lost, Err(Error::Damaged { .. })), "{lost:?}");
        accept(&other, "main", 2).await.unwrap();
        rename(&other, "main", "new").await.unwrap();
        assert_eq!(systems(&place.open().await, "new").await.unwrap(), [2]);

        // All of them: nothing tells which cluster it was.
        for number in [1, 3] {
            place.damage(&format!("servers/main/{number}"));
        }
        let refused = require_system(&place.open().await, "main", 2, "WAL").await;
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    }
}
