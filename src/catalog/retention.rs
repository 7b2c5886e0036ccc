//! What a retention policy makes of a server's backups.

use jiff::Timestamp;
use repo_format::note::KeepTarget;

use super::{Backup, Status};
use crate::config::Server;
use crate::config::values::RetentionPolicy;

/// What a retention policy makes of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// The policy needs it.
    Valid,
    /// It may go.
    Obsolete,
    /// The policy does not need it, but without it there would be too few.
    PotentiallyObsolete,
    /// It was told to be kept.
    Kept(KeepTarget),
    /// No policy has a say: there is none, or the backup is not complete.
    None,
}

impl Retention {
    /// Barman's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Retention::Valid => "VALID",
            Retention::Obsolete => "OBSOLETE",
            Retention::PotentiallyObsolete => "OBSOLETE*",
            Retention::Kept(KeepTarget::Full) => "KEEP:FULL",
            Retention::Kept(KeepTarget::Standalone) => "KEEP:STANDALONE",
            Retention::None => "-",
        }
    }
}

/// What `server`'s policy makes of `backups`, which are in their order, oldest first.
pub fn of(backups: &[Backup], server: &Server, now: Timestamp) -> Vec<Retention> {
    let candidates: Vec<Candidate> = backups.iter().map(Candidate::of).collect();
    let minimum = usize::try_from(server.minimum_redundancy).unwrap_or(usize::MAX);
    classify(&candidates, server.retention_policy.as_ref(), minimum, now)
}

/// What counts of a backup.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Whether it can be restored, with all the WAL that it needs.
    is_done: bool,
    keep: Option<KeepTarget>,
    ended_at: i64,
}

impl Candidate {
    fn of(backup: &Backup) -> Self {
        Candidate {
            is_done: backup.status() == Status::Done,
            keep: backup.keep,
            ended_at: backup.snapshot.as_ref().map_or(0, |snapshot| snapshot.ended_at),
        }
    }
}

/// Only complete backups count; those that are kept count too, and fill the places of others.
fn classify(
    backups: &[Candidate],
    policy: Option<&RetentionPolicy>,
    minimum: usize,
    now: Timestamp,
) -> Vec<Retention> {
    let (mut valid, mut is_covered) = (0, false);
    let mut retentions: Vec<Retention> = backups
        .iter()
        .rev()
        .map(|backup| {
            let needed = backup.is_done
                && match policy {
                    None => false,
                    Some(RetentionPolicy::Redundancy(count)) => {
                        valid < usize::try_from(*count).unwrap_or(usize::MAX).max(minimum)
                    }
                    // The first one before the window is what its beginning is restored from.
                    Some(RetentionPolicy::RecoveryWindow(_)) => !is_covered,
                };
            let retention = match (backup.keep, policy) {
                (Some(target), _) => Retention::Kept(target),
                (None, Some(_)) if needed => Retention::Valid,
                (None, Some(_)) if backup.is_done && valid < minimum => {
                    Retention::PotentiallyObsolete
                }
                (None, Some(_)) if backup.is_done => Retention::Obsolete,
                _ => Retention::None,
            };
            if let Some(RetentionPolicy::RecoveryWindow(window)) = policy {
                let begins = now.as_microsecond() - micros(window.duration());
                // A standalone backup has no WAL to go on from.
                let goes_on = backup.is_done && backup.keep != Some(KeepTarget::Standalone);
                is_covered |= goes_on && backup.ended_at <= begins;
            }
            valid += usize::from(backup.is_done);
            retention
        })
        .collect();
    retentions.reverse();
    retentions
}

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1_000_000;

    /// A complete backup of so many days ago.
    fn done(days_ago: i64) -> Candidate {
        Candidate { is_done: true, keep: None, ended_at: -days_ago * DAY }
    }

    fn classified(backups: &[Candidate], policy: &str, minimum: usize) -> String {
        let policy = policy.parse().ok();
        let retentions = classify(backups, policy.as_ref(), minimum, Timestamp::UNIX_EPOCH);
        retentions.iter().map(|r| r.name()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn redundancy_keeps_the_newest() {
        let backups = [done(4), done(3), done(2), done(1)];
        let two = "OBSOLETE OBSOLETE VALID VALID";
        assert_eq!(classified(&backups, "REDUNDANCY 2", 0), two);
        assert_eq!(classified(&backups, "REDUNDANCY 9", 0), "VALID VALID VALID VALID");
        // A minimum above the policy's number raises it.
        assert_eq!(classified(&backups, "REDUNDANCY 2", 3), "OBSOLETE VALID VALID VALID");
        assert_eq!(classified(&backups, "", 3), "- - - -");
    }

    #[test]
    fn only_what_is_complete_counts() {
        let unfinished = Candidate { is_done: false, ..done(1) };
        let backups = [done(4), done(3), unfinished];
        assert_eq!(classified(&backups, "REDUNDANCY 1", 0), "OBSOLETE VALID -");
        assert_eq!(classified(&backups, "RECOVERY WINDOW OF 2 DAYS", 0), "OBSOLETE VALID -");
    }

    #[test]
    fn kept_backups_take_a_place_and_stay() {
        let kept = Candidate { keep: Some(KeepTarget::Full), ..done(1) };
        let alone = Candidate { keep: Some(KeepTarget::Standalone), ..done(9) };
        let backups = [alone, done(4), done(2), kept];
        let expected = "KEEP:STANDALONE OBSOLETE VALID KEEP:FULL";
        assert_eq!(classified(&backups, "REDUNDANCY 2", 0), expected);
        assert_eq!(classified(&backups, "", 0), "KEEP:STANDALONE - - KEEP:FULL");
    }

    #[test]
    fn a_window_needs_the_first_backup_before_it() {
        let backups = [done(20), done(9), done(8), done(6), done(1)];
        assert_eq!(
            classified(&backups, "RECOVERY WINDOW OF 1 WEEKS", 0),
            "OBSOLETE OBSOLETE VALID VALID VALID"
        );
        assert_eq!(
            classified(&backups, "RECOVERY WINDOW OF 1 WEEKS", 4),
            "OBSOLETE OBSOLETE* VALID VALID VALID"
        );
        let alone = Candidate { keep: Some(KeepTarget::Standalone), ..done(8) };
        assert_eq!(
            classified(&[done(20), alone, done(1)], "RECOVERY WINDOW OF 1 WEEKS", 0),
            "VALID KEEP:STANDALONE VALID"
        );
        // All are younger than the window: all are needed.
        assert_eq!(classified(&backups, "RECOVERY WINDOW OF 2 MONTHS", 0), ["VALID"; 5].join(" "));
        // Nothing is younger: the newest is what today is restored from.
        assert_eq!(
            classified(&[done(20), done(9)], "RECOVERY WINDOW OF 1 DAYS", 0),
            "OBSOLETE VALID"
        );
    }
}
