//! `flashover key`: the pair that signs manifests on the head and lets nodes check them.

use super::{Global, error};
use crate::capture::Store;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the key that signs manifests
    Generate {
        /// Replace the key that is there; what it signed is not trusted any more
        #[arg(long)]
        force: bool,
    },
    /// Show the public key, for nodes to trust
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(global: &Global, command: &Command) -> error::Result {
    let store = Store::open(&global.store);
    let (key, json) = match *command {
        Command::Generate { force } => (store.generate_key(force)?.public_key(), false),
        Command::Show { json } => (store.public_key()?, json),
    };
    if json {
        let value = serde_json::json!({
            "public_key": key.to_string(),
            "fingerprint": key.fingerprint(),
        });
        println!("{value}");
    } else {
        println!("{key}");
        if !global.quiet {
            eprintln!("fingerprint {}", key.fingerprint());
        }
    }
    Ok(())
}
