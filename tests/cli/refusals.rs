//! What is refused, and by which exit code. Nothing here touches a network.

use std::path::Path;
use std::process::Command;

use super::process::{Ended, flashover, run};

fn in_store(store: &Path, arguments: &[&str]) -> Ended {
    let mut command = flashover();
    command.args(arguments).env("FLASHOVER_STORE", store);
    run(command)
}

fn with_token(arguments: &[&str]) -> Command {
    let token = run({
        let mut command = flashover();
        command.args(["token", "create", "--offline"]);
        command
    });
    let mut command = flashover();
    command
        .args(arguments)
        .env("FLASHOVER_TOKEN", token.stdout.trim());
    command
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["serve", "--no-such-flag"][..],
        &["receive"],
        &["receive", "x"],
        &["receive", "x", "--into", "a", "--to-device", "b"],
        &["receive", "../x", "--into", "a"],
        &["receive", "x@y", "--into", "a"],
        &["catch", "f", "--token", "nonsense"],
        &["catch", "f", "--json", "--json-lines"],
        &["cast", "f", "--rate-max", "fast"],
        &["cast", "f", "--group", "10.0.0.1"],
        &["cast", "f", "--receivers", "0"],
        &["token", "create", "--offline", "--ttl", "1h"],
    ] {
        let mut command = flashover();
        command.args(arguments);
        let ended = run(command);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_file_and_json_do_not_share_standard_output() {
    let ended = run(with_token(&["catch", "-", "--json"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn a_missing_key_is_exit_code_8_and_says_how_to_make_one() {
    let store = tempfile::tempdir().unwrap();
    for arguments in [&["serve"][..], &["token", "create"]] {
        let ended = in_store(store.path(), arguments);
        assert_eq!(ended.code, Some(8), "{ended:?}");
        assert!(ended.stderr.contains("flashover key generate"), "{ended:?}");
    }
}

#[test]
fn a_missing_token_is_exit_code_5_and_says_how_to_make_one() {
    for arguments in [&["receive", "x", "--into", "y"][..], &["catch", "f"]] {
        let mut command = flashover();
        command.args(arguments);
        let ended = run(command);
        assert_eq!(ended.code, Some(5), "{ended:?}");
        assert!(ended.stderr.contains("flashover token create"), "{ended:?}");
    }
}

#[test]
fn a_file_that_is_there_is_not_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "precious").unwrap();
    let mut command = with_token(&["catch", "--json"]);
    command.arg(&file);
    let ended = run(command);
    assert_eq!(ended.code, Some(8), "{ended:?}");
    let error = ended.json();
    assert_eq!(error["kind"], "precondition");
    assert_eq!(error["exit_code"], 8);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn what_cannot_be_cast_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let missing = dir.path().join("missing");
    for (path, code) in [(dir.path(), 2), (&empty, 2), (&missing, 7)] {
        let mut command = flashover();
        command.arg("cast").arg(path);
        let ended = run(command);
        assert_eq!(ended.code, Some(code), "{ended:?}");
    }
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path();
    assert_eq!(in_store(store, &["key", "generate"]).code, Some(0));
    let made = in_store(store, &["token", "create", "--ttl", "1h", "--json"]).json();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("fo1-") && token.len() == 57, "{token}");
    let listed = in_store(store, &["token", "list", "--json"]);
    assert!(!listed.stdout.contains(&token[31..]), "{listed:?}");
    assert_eq!(listed.json()["tokens"][0]["id"], made["id"]);
    let id = made["id"].as_str().unwrap();
    assert_eq!(in_store(store, &["token", "revoke", id]).code, Some(0));
    assert_eq!(in_store(store, &["token", "revoke", id]).code, Some(2));
    let listed = in_store(store, &["token", "list", "--json"]).json();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 0);
}
