//! `flashover token`.

use std::time::Duration;

use super::Global;
use super::error::{CommandError, Kind, Result};
use crate::base::units::parse_duration;
use crate::deploy::token::{Record, Token};
use crate::deploy::{self, head};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a join token for nodes of this head
    Create {
        /// How long it is valid, as 90m or 24h [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "offline")]
        ttl: Option<Duration>,
        /// Make one for cast and catch, without a store: both sides are given it beforehand
        #[arg(long)]
        offline: bool,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tokens of this head
    List {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a token invalid
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

pub(crate) fn run(global: &Global, command: &Command) -> Result {
    let tokens = deploy::token::Tokens::at(&global.store);
    match command {
        Command::Create {
            offline: true,
            json,
            ..
        } => {
            let token = Token::rooted()?;
            print_token(&token, None, *json);
        }
        Command::Create { ttl, json, .. } => {
            let (token, record) = head::create_token(&global.store, *ttl)?;
            print_token(&token, Some(&record), *json);
        }
        Command::List { json } => list(&tokens.list()?, *json),
        Command::Revoke { id } => {
            if !tokens.revoke(id)? {
                let cause = anyhow::anyhow!("There is no token {id}");
                return Err(
                    CommandError::new(Kind::Usage, cause).hint("see them: flashover token list")
                );
            }
        }
    }
    Ok(())
}

fn print_token(token: &Token, record: Option<&Record>, json: bool) {
    if json {
        let document = serde_json::json!({
            "v": 1,
            "token": token.to_string(),
            "id": record.map(|record| &record.id),
            "expires": record.and_then(|record| record.expires),
        });
        println!("{document}");
    } else {
        println!("{token}");
    }
}

fn list(records: &[Record], json: bool) {
    if json {
        println!("{}", serde_json::json!({ "v": 1, "tokens": records }));
        return;
    }
    for record in records {
        let state = match (record.has_ended(), record.expires) {
            (true, _) => "expired".to_owned(),
            (false, None) => "valid until revoked".to_owned(),
            (false, Some(end)) => format!("valid until {end} (seconds since 1970)"),
        };
        println!("{}  {state}", record.id);
    }
}
