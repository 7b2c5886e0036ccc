//! `barman repo upgrade`.

use repo_format::FORMAT_VERSION;

use crate::cli::{Session, open};
use crate::error::Result;
use crate::repository::Access;

/// Bring the repository to the newest format.
///
/// Writes a new configuration object that allows the features of this version. Older versions may then
/// refuse to write to it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

const EXAMPLES: &str = "EXAMPLES:
  barman repo upgrade";

/// Runs the command.
pub async fn run(_args: Args, server: Option<&str>, session: &mut Session) -> Result<()> {
    let output = &session.output;
    let settings = session.repository(server)?;
    // Opening it for writing refuses what a newer version has changed.
    let repository = open::repository(settings, Access::Write, |text| output.warning(text)).await?;
    output.info(format!(
        "Nothing to upgrade: the repository in {} has format {FORMAT_VERSION}, the newest there is.",
        repository.location()
    ));
    Ok(())
}
