//! Every rule fails on a text that breaks it, and passes on one that just does not.

use super::rules::{FUNCTION_LINES_MAX, LINE_CHARS_MAX, file, long_files};
use super::rules::{undeclared, unjustified, unknown_rooms, unlike_published};
use super::source::{code, without_tests};
use super::{Files, ROOMS};

/// Asserts that the file breaks exactly one rule, and says so in these words.
#[track_caller]
fn breaks(path: &str, text: &str, words: &str) {
    let broken = file(path, text);
    assert!(
        broken.len() == 1 && broken[0].contains(words),
        "{words:?} in {broken:?}"
    );
}

#[track_caller]
fn keeps(path: &str, text: &str) {
    assert_eq!(file(path, text), Vec::<String>::new());
}

#[test]
fn rooms_import_only_what_the_table_lists() {
    for bad in [
        "use crate::engine::ring;",
        "use crate::{base::Time, engine};",
        "use crate::{\n    base::{Block, Time},\n    engine::{self},\n};",
        "fn f() { crate::engine::go(); }",
        "pub(in crate::engine) struct S;",
        "use crate::*;",
    ] {
        breaks(
            "src/multicast/sender.rs",
            bad,
            "multicast may not import `crate::",
        );
    }
    for hidden in [
        "use crate as root;",
        "use super::super::engine;",
        "use flashover::engine;",
    ] {
        breaks("src/multicast/sender.rs", hidden, "hides a room");
    }
    breaks(
        "src/multicast/mod.rs",
        "//! It.\n#![forbid(unsafe_code)]\n\
        #![deny(clippy::disallowed_methods, clippy::disallowed_types)]\n\
        use super::engine;",
        "hides a room",
    );
    keeps(
        "src/multicast/sender.rs",
        "use crate::{base::{Block, Time}, fec};",
    );
    keeps(
        "src/multicast/sender.rs",
        "use super::wire::Lct;\nuse crate::multicast::Policy;",
    );
    keeps(
        "src/multicast/sender/pace.rs",
        "use super::super::wire::Lct;",
    );
}

#[test]
fn comments_texts_and_tests_import_what_they_like() {
    keeps(
        "src/multicast/sender.rs",
        "/// See [`crate::engine`].\nfn f() {}",
    );
    keeps(
        "src/multicast/sender.rs",
        "/* crate::engine /* nested */ crate::cli */ fn f() {}",
    );
    keeps(
        "src/multicast/sender.rs",
        "const A: &str = r#\"crate::engine\"#;",
    );
    keeps(
        "src/multicast/sender.rs",
        "const A: (char, &str) = ('\"', \"crate::engine\");",
    );
    keeps("src/multicast/tests.rs", "use crate::engine;");
    keeps("src/multicast/sender_tests.rs", "use crate::engine;");
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::engine;\n}\n";
    keeps("src/multicast/sender.rs", tests);
    let behind = format!("{tests}use crate::engine;");
    breaks(
        "src/multicast/sender.rs",
        &behind,
        "sender.rs:5: multicast may not import",
    );
}

#[test]
fn files_lines_and_functions_have_limits() {
    keeps("src/fec/a.rs", &"//\n".repeat(1000));
    breaks(
        "src/fec/a.rs",
        &"//\n".repeat(1001),
        "1001 lines, at most 1000",
    );

    let soft = Files::from([
        ("src/a.rs".to_owned(), "\n".repeat(600)),
        ("src/b.rs".to_owned(), "\n".repeat(601)),
    ]);
    assert_eq!(long_files(&soft).collect::<Vec<_>>(), [("src/b.rs", 601)]);

    keeps(
        "src/fec/a.rs",
        &format!("//{}", "é".repeat(LINE_CHARS_MAX - 2)),
    );
    breaks(
        "src/fec/a.rs",
        &format!("//{}", "x".repeat(LINE_CHARS_MAX - 1)),
        "101 characters",
    );
    keeps(
        "src/fec/a.rs",
        &format!("    \"{}\"", "x".repeat(LINE_CHARS_MAX)),
    );

    let function = |lines| {
        format!(
            "fn f(a: [u8; 3]) -> u8\n{{\n{}}}\n",
            "    g();\n".repeat(lines)
        )
    };
    keeps("src/fec/a.rs", &function(FUNCTION_LINES_MAX));
    breaks(
        "src/fec/a.rs",
        &function(FUNCTION_LINES_MAX + 1),
        "a.rs:1: `f` has 71 lines",
    );
    keeps("tests/sim/mod.rs", &function(FUNCTION_LINES_MAX + 1));
    keeps(
        "src/fec/a.rs",
        &function(FUNCTION_LINES_MAX).replace("}\n", "\n // why\n\n}\n"),
    );
}

#[test]
fn unsafe_is_explained_and_stays_where_it_is_named() {
    let block = "fn f() {\n    let a = unsafe { g() };\n}";
    breaks(
        "src/engine/ring.rs",
        block,
        "ring.rs:2: `unsafe` without a `// SAFETY:` note",
    );
    breaks(
        "src/engine/ring.rs",
        "unsafe impl Send for Ring {}",
        "without a `// SAFETY:`",
    );
    let far = "fn f() {\n    // SAFETY: of g.\n    g();\n    unsafe { h() };\n}";
    breaks("src/engine/ring.rs", far, "without a `// SAFETY:`");
    keeps(
        "src/engine/ring.rs",
        "fn f() {\n    // SAFETY: so.\n    let a =\n        unsafe { g() };\n}",
    );
    keeps("src/engine/ring.rs", "unsafe fn f() {}");
    keeps(
        "src/engine/ring.rs",
        "const A: &str = \"unsafe { }\"; // unsafe { }",
    );

    let allow = "#![allow(unsafe_code)]";
    for named in [
        "engine/ring.rs",
        "engine/ring/mod.rs",
        "engine/ring/a.rs",
        "engine/net/sys.rs",
    ] {
        keeps(&format!("src/{named}"), allow);
    }
    for other in [
        "engine/rings.rs",
        "engine/net/udp.rs",
        "engine/drive.rs",
        "fec/raptorq.rs",
    ] {
        breaks(&format!("src/{other}"), allow, "allows `unsafe` outside");
    }
    let split = "#[expect(\n    unsafe_code, reason = \"fast\")]\nmod ring;";
    breaks("src/engine/disk.rs", split, "allows `unsafe` outside");
}

#[test]
fn nothing_half_done_is_left_in() {
    for word in ["todo!()", "unimplemented!()", "dbg!(1)"] {
        breaks(
            "src/fec/a.rs",
            &format!("fn f() {{ {word} }}"),
            "is not left in",
        );
        breaks(
            "tests/sim/mod.rs",
            &format!("fn f() {{ {word} }}"),
            "is not left in",
        );
    }
    breaks(
        "src/fec/a.rs",
        concat!("// FIX", "ME: later"),
        "is not left in",
    );
    keeps(
        "src/fec/a.rs",
        "// what todo!() would do\nconst A: &str = \"dbg!\";",
    );
}

#[test]
fn a_room_has_a_charter_and_its_fences() {
    let deny = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
    let good = format!("//! What it is.\n#![forbid(unsafe_code)]\n{deny}\n");
    keeps("src/image/mod.rs", &good);
    breaks(
        "src/image/mod.rs",
        good.trim_start_matches("//! What it is.\n"),
        "charter",
    );
    breaks(
        "src/image/mod.rs",
        &good.replace("forbid", "deny"),
        "#![forbid(unsafe_code)]",
    );
    breaks(
        "src/image/mod.rs",
        &good.replace("_types", "_macros"),
        "a pure room",
    );
    keeps(
        "src/tree/mod.rs",
        "//! What it is.\n#![forbid(unsafe_code)]\n",
    );
    keeps("src/engine/mod.rs", "//! What it is.\n");
}

#[test]
fn every_file_is_declared_and_every_folder_is_a_room() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let good = Files::from([
        file("tests/runner.rs", "mod sim;\nmod tidy;"),
        file("tests/sim/mod.rs", "mod lossy;"),
        file("tests/sim/lossy.rs", ""),
        file("tests/tidy.rs", ""),
        file("src/lib.rs", "pub mod fec;"),
        file(
            "src/fec/mod.rs",
            "mod a;\n#[path = \"a_tests.rs\"]\nmod tests;",
        ),
        file("src/fec/a_tests.rs", ""),
        file("src/fec/a.rs", "mod b;"),
        file("src/fec/a/b.rs", ""),
    ]);
    assert_eq!(undeclared(&good), Vec::<String>::new());
    for (path, text) in [
        ("tests/runner.rs", "mod sim; // mod tidy;"),
        ("tests/sim/mod.rs", ""),
        ("src/lib.rs", ""),
        ("src/fec/a.rs", "mod bb;"),
    ] {
        let mut bad = good.clone();
        bad.insert(path.to_owned(), text.to_owned());
        assert_eq!(undeclared(&bad).len(), 1, "{path} without its mod line");
    }

    let mut rooms: Files = ROOMS
        .iter()
        .map(|room| (format!("src/{}/mod.rs", room.name), String::new()))
        .collect();
    assert_eq!(unknown_rooms(&rooms), Vec::<String>::new());
    rooms.insert("src/attic/mod.rs".to_owned(), String::new());
    rooms.insert("src/loose.rs".to_owned(), String::new());
    rooms.remove("src/fec/mod.rs");
    assert_eq!(unknown_rooms(&rooms).len(), 3);
}

#[test]
fn every_dependency_is_justified() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\nblake3 = \"1\"\n\
        [dev-dependencies]\ninsta = { version = \"1\" }\n[lints.rust]\nunsafe_code = \"deny\"\n";
    let both = "- `blake3`: hashes\n- `insta`: snapshots\n";
    assert_eq!(unjustified(manifest, both), Vec::<String>::new());
    let one = unjustified(manifest, "- `blake3`: hashes, and insta");
    assert_eq!(
        one,
        ["Cargo.toml: `insta` has no line in docs/ARCHITECTURE.md"]
    );
    assert_eq!(unjustified(manifest, "").len(), 2);
    let row = unjustified(
        manifest,
        "| blake3 | hashes |\n| insta-extra | snapshots of insta |",
    );
    assert_eq!(row.len(), 1);
}

#[test]
fn the_published_table_says_the_same() {
    let row = |room: &super::Room| {
        let imports = match room.name {
            "deploy" => "all but cli".to_owned(),
            _ => room.imports.join(", "),
        };
        format!("| {} | what it is | {imports} | forbidden |\n", room.name)
    };
    let good: String = ROOMS.iter().map(row).collect();
    assert_eq!(unlike_published(&good), Vec::<String>::new());
    let bad = good
        .replace("| base, image, fec |", "| base |")
        .replace("| fec | ", "| fecs | ");
    let broken = unlike_published(&bad);
    assert_eq!(broken.len(), 1, "{broken:?}");
    let loose = good.replace("| all but cli |", "| all |");
    assert_eq!(unlike_published(&loose).len(), 1);
}

#[test]
fn the_table_is_layered() {
    for (index, room) in ROOMS.iter().enumerate() {
        for import in room.imports {
            let at = ROOMS.iter().position(|other| other.name == *import);
            assert!(
                at.is_some_and(|at| at < index),
                "{} imports {import}",
                room.name
            );
        }
    }
}

#[test]
fn what_is_not_code_is_blanked_line_for_line() {
    let text = "a // b\n\"c\\\"\nd\" e /* f\n */ 'g' '\\'' 'h: r\"i\" br#\"j\n\"# k";
    let expected = "a \n\"\n\" e \n \"\" \"\" 'h: \"\" \"\n\" k";
    assert_eq!(code(text), expected);
    let tests = "a\n#[cfg(test)]\nuse b::{c, d};\ne\n#[cfg(test)]\nmod f {\n g {}\n}\nh";
    assert_eq!(without_tests(tests), "a\n\n\ne\n\n\n\n\nh");
}
