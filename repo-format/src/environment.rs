//! What a server ran on, and what its databases depend on: what a restored server must find again.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::{DecodeError, Result, strictly_ascending, within};
use crate::limits::MAX_ENVIRONMENT;

/// What a server told of itself before a backup, as far as it did.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Environment {
    /// `version()`: PostgreSQL's version, the platform it was built for, and the compiler.
    pub version: String,
    /// The version of the collations of the server's C library.
    pub libc_version: Option<String>,
    /// The version of the root collation of the server's ICU.
    pub icu_version: Option<String>,
    /// `shared_preload_libraries`, if the role could see it.
    pub preload_libraries: Option<String>,
    /// The databases, in ascending order of their object ids.
    pub databases: Vec<Database>,
    /// How many more there were, for which there was no room.
    pub left_out: u32,
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Database {
    /// Its object id.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its encoding, by PostgreSQL's name.
    pub encoding: String,
    /// Who sorts: `libc`, `icu` or `builtin`.
    pub provider: String,
    /// `datcollate`.
    pub collate: String,
    /// `datctype`.
    pub ctype: String,
    /// The locale of ICU or of PostgreSQL itself.
    pub locale: Option<String>,
    /// The version of the collation with which its indexes were made, as the database recorded it.
    pub collation_version: Option<String>,
    /// The version that the server had.
    pub actual_version: Option<String>,
    /// What is inside, if the role was let in.
    pub contents: Option<Contents>,
}

/// What a database has that comes from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Contents {
    /// Its extensions, in ascending order of their names.
    pub extensions: Vec<Extension>,
    /// The collations with a version that something in it uses, ascending by schema and name.
    pub collations: Vec<Collation>,
}

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A collation that is named in a column, an index or the like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Collation {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Who sorts: `libc`, `icu` or `builtin`.
    pub provider: String,
    /// The version that the database recorded.
    pub version: String,
}

impl Environment {
    /// The length of the encoded form.
    pub fn encoded_length(&self) -> usize {
        borsh::object_length(self).unwrap_or(usize::MAX)
    }

    /// Refuses what is too long or out of order.
    pub fn validate(&self) -> Result<()> {
        within("environment", self.encoded_length() as u64, MAX_ENVIRONMENT as u64)?;
        strictly_ascending("databases", self.databases.iter().map(|database| database.oid))?;
        for contents in self.databases.iter().filter_map(|database| database.contents.as_ref()) {
            let Contents { extensions, collations } = contents;
            strictly_ascending("extensions", extensions.iter().map(|it| &it.name))?;
            strictly_ascending("collations", collations.iter().map(|it| (&it.schema, &it.name)))?;
        }
        let listed = u32::try_from(self.databases.len()).unwrap_or(u32::MAX);
        if listed.checked_add(self.left_out).is_none() {
            return Err(DecodeError::malformed("environment", "there cannot be so many databases"));
        }
        Ok(())
    }
}
