//! What a rehearsal found.

use std::time::Duration;

use jiff::Timestamp;

use crate::human;
use crate::postgres::lsn::{Lsn, TimelineId};
use crate::postgres::sql::Answer;
use crate::restore::Restored;

/// What a rehearsal found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// What speaks against the backup.
    pub problems: Vec<String>,
    /// What was done otherwise than usual.
    pub remarks: Vec<String>,
    /// What a restore to this host warns of.
    pub warnings: Vec<String>,
    /// What was restored.
    pub restored: Restored,
    /// How long it took.
    pub times: Times,
    /// How far recovery came.
    pub reached: Option<Reached>,
    /// The databases that were connected to.
    pub databases: Vec<Database>,
    /// What was asked, and the answers.
    pub queries: Vec<Query>,
    /// Whether pg_amcheck found nothing, if it was run to its end.
    pub amcheck: Option<bool>,
}

/// How long the parts of a rehearsal took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// The restore.
    pub restore: Duration,
    /// From the start of the server until it had recovered.
    pub recovery: Duration,
    /// The checks.
    pub checks: Duration,
}

/// How far recovery came.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// The end of the last WAL record.
    pub lsn: Lsn,
    /// The timeline that it followed.
    pub timeline: TimelineId,
    /// When the last transaction ended that was in the WAL.
    pub last_transaction: Option<Timestamp>,
}

/// A database that was connected to.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// How many tables, indexes and other relations with files it has, if it could be asked.
    pub relations: Option<u64>,
}

/// A query of the user, and its answer or error.
#[derive(Debug, Clone)]
pub struct Query {
    /// What was asked.
    pub sql: String,
    /// What came of it.
    pub answer: Result<Answer, String>,
}

/// A report is no longer than this, in bytes.
const LONGEST: usize = 2000;

impl Found {
    /// Whether nothing speaks against the backup.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The relations of all databases.
    pub fn relations(&self) -> u64 {
        self.databases.iter().filter_map(|database| database.relations).sum()
    }

    /// What is noted with the backup.
    pub fn report(&self) -> String {
        if !self.is_good() {
            return cut(self.problems.join("; "));
        }
        let mut report = String::new();
        if let Some(reached) = &self.reached {
            report.push_str(&format!("recovered to {reached}; "));
        }
        let (databases, relations) = (self.databases.len(), self.relations());
        report.push_str(&format!("{databases} databases with {relations} relations"));
        if !self.queries.is_empty() {
            report.push_str(&format!(", {} queries", self.queries.len()));
        }
        if self.amcheck.is_some() {
            report.push_str(", checked with pg_amcheck");
        }
        let Times { restore, recovery, checks } = self.times;
        report.push_str(&format!("; in {}", human::duration(restore + recovery + checks)));
        cut(report)
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LSN {} on timeline {}", self.lsn, self.timeline)?;
        match self.last_transaction {
            Some(time) => write!(f, ", last transaction {}", crate::restore::zoned(time)),
            None => Ok(()),
        }
    }
}

/// The beginning of a text that is too long.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_problems_or_what_was_seen() {
        let mut found = Found { amcheck: Some(true), ..Found::default() };
        let database = Database { name: "d".into(), bytes: 1, relations: Some(7) };
        found.databases = vec![database.clone(), Database { relations: None, ..database }];
        let reached = Reached { lsn: Lsn(16), timeline: TimelineId(3), last_transaction: None };
        found.reached = Some(reached);
        assert_eq!(
            found.report(),
            "recovered to LSN 0/10 on timeline 3; 2 databases with 7 relations, checked with \
             pg_amcheck; in less than one second"
        );
        found.problems = vec!["one".into(), "ä".repeat(LONGEST)];
        let report = found.report();
        assert!(report.starts_with("one; ä") && report.len() <= LONGEST + 3, "{report}");
    }
}
