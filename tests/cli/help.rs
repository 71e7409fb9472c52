//! The help of every command, as it is read in a terminal of 100 columns.

use super::process::{flashover, run};

#[test]
fn every_command_explains_itself() {
    for path in [
        "",
        "image",
        "image publish",
        "key",
        "token",
        "token create",
        "token list",
        "token revoke",
        "serve",
        "receive",
        "cast",
        "catch",
        "torrent",
        "torrent create",
        "torrent show",
        "torrent verify",
        "torrent magnet",
        "doctor",
    ] {
        let mut command = flashover();
        command.args(path.split_whitespace()).arg("--help");
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "{path}: {ended:?}");
        let name = format!("help {path}").trim().replace(' ', "-");
        insta::assert_snapshot!(name, ended.stdout);
    }
}
