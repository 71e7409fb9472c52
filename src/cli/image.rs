//! `flashover image`.

use super::{Global, error};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List images
    List,
}

pub(crate) fn run(_global: &Global, command: Command) -> error::Result {
    match command {
        Command::List => Err(error::CommandError::new(
            error::Kind::Internal,
            anyhow::anyhow!("Not there yet"),
        )),
    }
}
