//! `barman repo share`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::cli::output::Output;
use crate::cli::{Session, open};
use crate::config::KeySource;
use crate::error::{Error, Kind, Result};
use crate::repository::{Access, host, key_file};

/// Share the repository with the users of a group.
///
/// Gives a repository that was made without --group, and its key file, to a group: one of its users archives WAL, another
/// backs up. Everything in it, now and later, is for the group, whatever the umask of who writes it. To be run by the
/// owner of the repository, who is in the group, or by root. It can be run again at any time.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The group, by its name or number
    #[arg(value_name = "GROUP")]
    pub group: String,
}

const EXAMPLES: &str = "EXAMPLES:
  barman repo share backup-writers";

/// Runs the command.
pub async fn run(args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    let group = group_id(&args.group)?;
    let repository = open::repository(settings, Access::Write, |text| output.warning(text)).await?;
    let location = repository.location();
    let shared = repository.storage().prepare(Some(group)).await;
    shared.map_err(|error| {
        Error::from(error).context(format!("{location} is not, or not all of it, the group's")).hint(
            "run it as the owner of the repository, who must be in the group, or as root; then again",
        )
    })?;
    let key_file = match settings.key()? {
        KeySource::KeyFile(path) => {
            key_file::share(path, group)?;
            Some(path)
        }
        _ => None,
    };
    output.info(format!("The users of group {} share {location}", args.group));
    warn_of_closed_ways(Path::new(&location), group, &args.group, output);
    if let Some(path) = key_file {
        output.info(format!("  and the key file {}", path.display()));
        warn_of_closed_ways(path, group, &args.group, output);
    }
    output.result(
        "repository",
        json!({
            "location": location,
            "group": args.group,
            "key_file": key_file.map(|path| path.display().to_string()),
        }),
    );
    Ok(())
}

/// The number of the group that is named.
pub fn group_id(name: &str) -> Result<u32> {
    host::group_id(name).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("there is no group {name:?} in /etc/group"))
            .hint("give its number, if it comes from elsewhere")
    })
}

/// Directories above `path` may keep the group out of what is its own.
pub fn warn_of_closed_ways(path: &Path, group: u32, name: &str, output: &Output) {
    for above in path.ancestors().skip(1) {
        let Ok(metadata) = above.metadata() else { continue };
        let (of_group, of_others) = (metadata.mode() & 0o010, metadata.mode() & 0o001);
        let lets_in = of_others != 0 || metadata.gid() == group && of_group != 0;
        if !lets_in {
            output.warning(format!(
                "users of group {name} may not enter {0}: chgrp {name} {0} && chmod g+x {0}",
                above.display()
            ));
        }
    }
}
