//! The moment that a command recovers to, and the backup that it begins with.

use super::output::Output;
use crate::catalog::resolve::Reach;
use crate::catalog::{Backup, Catalog};
use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::TimelineId;
use crate::restore::target::{self, Moment, TargetTimeline};

/// Where recovery ends; at most one of them.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct Target {
    /// End recovery at this time, for example "2026-01-01 12:00:00+01"; without an offset, of this host's time zone
    #[arg(long, value_name = "TIME")]
    pub target_time: Option<String>,
    /// End recovery with this transaction
    #[arg(long, value_name = "XID")]
    pub target_xid: Option<String>,
    /// End recovery at this WAL location
    #[arg(long, value_name = "LSN")]
    pub target_lsn: Option<String>,
    /// End recovery at this restore point (pg_create_restore_point)
    #[arg(long, value_name = "NAME")]
    pub target_name: Option<String>,
    /// End recovery as soon as the backup is consistent
    #[arg(long)]
    pub target_immediate: bool,
}

impl Target {
    /// The moment that is meant.
    pub fn moment(&self) -> Result<Moment> {
        Ok(if let Some(time) = &self.target_time {
            Moment::Time(target::parse_time(time)?)
        } else if let Some(lsn) = &self.target_lsn {
            Moment::Lsn(lsn.parse().map_err(|_| wrong("an LSN", lsn, "write it like 0/3000060"))?)
        } else if let Some(xid) = &self.target_xid {
            Moment::Xid(xid.parse().map_err(|_| wrong("a transaction id", xid, "it is a number"))?)
        } else if let Some(name) = &self.target_name {
            Moment::Name(name.clone())
        } else if self.target_immediate {
            Moment::Immediate
        } else {
            Moment::Latest
        })
    }
}

/// The timeline that `--target-tli` means.
pub fn timeline(given: Option<&str>) -> Result<TargetTimeline> {
    Ok(match given {
        None | Some("latest") => TargetTimeline::Latest,
        Some("current") => TargetTimeline::Current,
        Some(text) => {
            let number = text.parse::<u32>().ok().filter(|number| *number > 0);
            let form = "give a number, 'latest' or 'current'";
            let number = number.ok_or_else(|| wrong("a timeline", text, form))?;
            TargetTimeline::Number(TimelineId(number))
        }
    })
}

fn wrong(what: &str, text: &str, form: &str) -> Error {
    Error::new(Kind::Usage, format!("{text:?} is not {what}")).hint(form.to_owned())
}

/// The backup that `id` means; `auto` is the best one for the target. `command` is what asks.
pub fn choose<'c>(
    id: &str,
    catalog: &'c Catalog,
    target: &target::Target,
    output: &Output,
    command: &str,
) -> Result<&'c Backup> {
    if id != "auto" {
        return catalog.find(id);
    }
    let reach = target.reach()?;
    let chosen = catalog.find_for(&reach)?;
    tell_passed_over(output, catalog, chosen, &reach, command);
    Ok(chosen)
}

/// Says that the newest backup is not the chosen one: what it has is on a timeline that was left, as when a clone
/// has archived as the server that it was made of.
fn tell_passed_over(
    output: &Output,
    catalog: &Catalog,
    chosen: &Backup,
    reach: &Reach,
    command: &str,
) {
    let Some((newer, followed)) = catalog.passed_over(chosen, reach) else { return };
    let own = newer.snapshot.as_ref().map_or(0, |snapshot| snapshot.wal.stop_timeline);
    let (id, chosen, server) = (&newer.id, &chosen.id, &catalog.server);
    let message = format!(
        "backup {chosen} is chosen, and {id}, which is newer, is passed over: it is on timeline {own}, and \
         timeline {followed} does not lead on from it"
    );
    if reach.timeline.is_some() {
        output.info(message);
    } else {
        output.warning(format!(
            "{message}. Timeline {followed} is the newest of the archive; if it is not the one that you want, \
             for example a clone's: barman {command} {server} {id} … --target-tli current"
        ));
    }
}
