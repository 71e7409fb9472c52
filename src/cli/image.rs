//! `flashover image`.

use super::{Global, error};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List images
    List,
    /// Make a bundle and its signed manifest of an image
    Publish(super::publish::Publish),
}

pub(crate) fn run(global: &Global, command: Command) -> error::Result {
    match command {
        Command::Publish(publish) => publish.run(global),
        Command::List => Err(error::CommandError::new(
            error::Kind::Internal,
            anyhow::anyhow!("Not there yet"),
        )),
    }
}
