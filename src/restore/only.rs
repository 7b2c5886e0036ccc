//! Leaves the data of databases out of a restore: their files get their sizes, and are all zeros, so that
//! recovery finds every file that the WAL speaks of. They cannot be used, and are there to be dropped.

use std::collections::{BTreeMap, BTreeSet};

use repo_format::chunk::DigestBuilder;
use repo_format::content::{Content, Run};
use repo_format::ids::Digest;
use repo_format::keys::NamingKeys;
use repo_format::limits::LEAF;

use super::files::{Plan, PlannedFile};
use super::layout::Layout;
use super::tree::PlannedFiles;
use crate::error::{Error, Kind, Result};
use crate::postgres::database_list::{self, Database, FILE_MAP};
use crate::postgres::relation_file::{FileKind, classify};
use crate::repository::reader::Reader;

/// The first object id of what users make: below are the templates and `postgres`, which every tool
/// connects to.
const FIRST_OF_USERS: u32 = 16_384;

/// Leaves the data of all databases out but of those with these names, of templates, and of `postgres`.
/// Returns the names of those that are left out.
///
/// # Errors
/// If there is no database of a name.
pub fn leave_others_out(
    reader: &Reader,
    names: &[String],
    plan: &mut Plan,
    layout: &mut Layout,
) -> Result<Vec<String>> {
    let databases = databases(reader, plan)?;
    let mut kept: BTreeSet<u32> = databases
        .iter()
        .filter(|database| database.is_template || database.oid < FIRST_OF_USERS)
        .map(|database| database.oid)
        .collect();
    for name in names {
        kept.extend(of_name(&databases, name)?);
    }
    let keys = reader.repository().keys().naming();
    let mut digests = BTreeMap::new();
    for planned in &mut plan.files {
        let database = database_of(&String::from_utf8_lossy(&planned.name));
        if database.is_none_or(|oid| oid < FIRST_OF_USERS || kept.contains(&oid)) {
            continue;
        }
        let size = planned.file.size;
        if let Some(part) = layout.part_of(&planned.path) {
            part.bytes = part.bytes.saturating_sub(size);
        }
        let digest = *digests.entry(size).or_insert_with(|| digest_of_zeros(keys, size));
        make_hole(planned, digest);
    }
    let others = databases.iter().filter(|d| d.is_current && !kept.contains(&d.oid));
    Ok(others.map(|database| database.name.clone()).collect::<BTreeSet<_>>().into_iter().collect())
}

/// The database whose data a file has. The map of its catalogues counts: where it is wrong, a connection is
/// refused; where the catalogues alone were, it would bring the whole server down.
fn database_of(name: &str) -> Option<u32> {
    match (classify(name), name.rsplit_once('/')) {
        (FileKind::Relation(relation), _) => Some(relation.database),
        (_, Some((directory, "pg_filenode.map"))) => directory.rsplit('/').next()?.parse().ok(),
        _ => None,
    }
}

/// The databases of a backup.
fn databases(reader: &Reader, plan: &Plan) -> Result<Vec<Database>> {
    let files = PlannedFiles::of(reader, plan);
    let missing = |name: &str| {
        Error::new(Kind::Damaged, format!("{name} is missing: it tells which databases there are"))
            .hint("restore without --only-database")
    };
    let map = files.read(FILE_MAP)?.ok_or_else(|| missing(FILE_MAP))?;
    let path = database_list::path(&map).map_err(|error| {
        Error::new(Kind::Damaged, "cannot tell which databases the backup has").because(error)
    })?;
    let pages = files.read(&path)?.ok_or_else(|| missing(&path))?;
    Ok(database_list::parse(&pages))
}

/// The object ids that a name stands for: as it was when the backup began, or before, if no database has it
/// any more.
fn of_name(databases: &[Database], name: &str) -> Result<Vec<u32>> {
    let all = databases.iter().filter(|database| database.name == name);
    let (current, former): (Vec<&Database>, Vec<&Database>) = all.partition(|d| d.is_current);
    let found = if current.is_empty() { former } else { current };
    if found.is_empty() {
        let known: BTreeSet<&str> =
            databases.iter().filter(|d| d.is_current).map(|d| d.name.as_str()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(Error::new(Kind::NotFound, format!("the backup has no database {name:?}"))
            .hint(format!("it has: {}", known.join(", "))));
    }
    Ok(found.into_iter().map(|database| database.oid).collect())
}

fn make_hole(planned: &mut PlannedFile, digest: Digest) {
    let length = planned.file.size;
    planned.file.digest = digest;
    planned.file.content = Content::Runs(match length {
        0 => vec![],
        length => vec![Run::Zero { length }],
    });
}

fn digest_of_zeros(keys: &NamingKeys, size: u64) -> Digest {
    const ZEROS: [u8; LEAF] = [0; LEAF];
    let (mut digest, whole) = (DigestBuilder::new(keys), [keys.leaf(&ZEROS)]);
    for _ in 0..size / LEAF as u64 {
        digest.leaves(&whole);
    }
    match ZEROS.get(..(size % LEAF as u64) as usize) {
        None | Some([]) => {}
        Some(rest) => digest.leaves(&[keys.leaf(rest)]),
    }
    digest.finish(size)
}

#[cfg(test)]
mod tests {
    use repo_format::keys::Secret;

    use super::*;

    #[test]
    fn zeros_have_the_digest_of_zeros() {
        let keys = NamingKeys::new(&Secret::from_bytes([7; 32]));
        for size in [0, 1, LEAF, 3 * LEAF, 3 * LEAF + 5] {
            assert_eq!(digest_of_zeros(&keys, size as u64), keys.digest_of(&vec![0; size]));
        }
    }

    #[test]
    fn files_are_of_databases() {
        for (name, database) in [
            ("base/16384/2619_fsm.1", Some(16_384)),
            ("base/16384/pg_filenode.map", Some(16_384)),
            ("base/16384/PG_VERSION", None),
            ("pg_tblspc/16400/PG_17_202406281/16385/16500", Some(16_385)),
            ("global/pg_filenode.map", None),
            ("global/1262", Some(0)),
            ("pg_xact/0000", None),
        ] {
            assert_eq!(database_of(name), database, "{name}");
        }
    }

    #[test]
    fn names_are_those_of_now_before_those_of_then() {
        let database = |oid, name: &str, is_current| Database {
            oid,
            name: name.into(),
            is_template: false,
            is_current,
        };
        let all = [
            database(1, "renamed", false),
            database(1, "a", true),
            database(2, "a", false),
            database(3, "b", true),
        ];
        assert_eq!(of_name(&all, "a").unwrap(), [1]);
        assert_eq!(of_name(&all, "renamed").unwrap(), [1]);
        let missing = of_name(&all, "c").unwrap_err();
        assert_eq!(missing.hint_text(), Some("it has: a, b"));
    }
}
