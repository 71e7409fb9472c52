//! `flashover doctor`.

use super::Global;
use super::error::{CommandError, Kind, Result};
use crate::deploy::doctor::{self, Finding, Level};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let findings = doctor::examine(&global.store);
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
