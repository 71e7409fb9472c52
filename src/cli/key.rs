//! `flashover key`.

use super::{Global, error};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the key that signs manifests
    Generate,
}

pub(crate) fn run(_global: &Global, command: Command) -> error::Result {
    match command {
        Command::Generate => Err(error::CommandError::new(
            error::Kind::Internal,
            anyhow::anyhow!("Not there yet"),
        )),
    }
}
