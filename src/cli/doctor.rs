//! `flashover doctor`.

use super::Global;
use super::error::{CommandError, Kind, Result};
use crate::deploy::doctor::{self, Finding, Level};
use crate::deploy::net::Ways;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Look at the engine alone: what the kernel offers, and what a job uses that is started with
    /// --engine WAYS
    #[arg(long, value_name = "WAYS", num_args = 0..=1, default_missing_value = "auto")]
    engine: Option<Ways>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let findings = match args.engine {
        Some(ways) => doctor::examine_engine(ways),
        None => doctor::examine(&global.store),
    };
    if args.json {
        println!("{}", serde_json::json!({ "v": 1, "findings": findings }));
    } else {
        findings.iter().for_each(print);
    }
    if findings
        .iter()
        .any(|finding| finding.level == Level::Broken)
    {
        let cause = anyhow::anyhow!("This machine is not ready");
        return Err(CommandError::new(Kind::Precondition, cause));
    }
    Ok(())
}

fn print(finding: &Finding) {
    let mark = match finding.level {
        Level::Good => "ok      ",
        Level::Note => "note    ",
        Level::Broken => "BROKEN  ",
    };
    println!("{mark}{:<12}{}", finding.subject, finding.text);
    if let Some(hint) = &finding.hint {
        println!("                    {hint}");
    }
}
