//! The rules. Each gives one line of text per violation: where, what, and what to do.

use super::source::{code, crate_paths, functions, without_tests};
use super::{Files, ROOMS, Room};

pub(crate) const FILE_LINES_SOFT: usize = 600;
pub(crate) const FILE_LINES_MAX: usize = 1000;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
pub(crate) const LINE_CHARS_MAX: usize = 100;

/// Everything that can be said about one file alone.
pub(crate) fn file(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let product = if is_test(path) {
        String::new()
    } else {
        without_tests(&code)
    };
    let mut broken = Vec::new();
    broken.extend(too_long(path, text));
    broken.extend(banned_words(path, text, &code));
    broken.extend(unexplained_unsafe(path, text, &code));
    broken.extend(long_functions(path, &product));
    if let Some(room) = room_of(path) {
        broken.extend(imports(path, room, &product));
        broken.extend(unsafe_allowed(path, room, &code));
        broken.extend(charter(path, room, text));
    }
    broken
}

/// Files that are not declared by a `mod` line: the compiler never sees them.
pub(crate) fn undeclared(files: &Files) -> Vec<String> {
    let roots = [
        "src/lib.rs",
        "src/main.rs",
        "tests/runner.rs",
        "tests/alloc/main.rs",
    ];
    let judged = files
        .keys()
        .filter(|path| path.starts_with("src/") || path.starts_with("tests/"));
    let mut broken = Vec::new();
    for path in judged.filter(|path| !roots.contains(&path.as_str())) {
        let module = path
            .strip_suffix("/mod.rs")
            .or_else(|| path.strip_suffix(".rs"));
        let (folder, name) = module
            .and_then(|m| m.rsplit_once('/'))
            .expect("it lies in a folder");
        let parents = match folder {
            "src" => vec!["src/lib.rs".to_owned()],
            "tests" => vec!["tests/runner.rs".to_owned()],
            _ => ["/mod.rs", ".rs", "/main.rs"]
                .map(|end| format!("{folder}{end}"))
                .to_vec(),
        };
        let parent = parents.iter().find_map(|parent| files.get(parent));
        let by_name = parent.is_some_and(|text| code(text).contains(&format!("mod {name};")));
        let by_path = format!("#[path = \"{name}.rs\"]");
        let beside = files
            .iter()
            .filter(|(other, _)| other.rsplit_once('/').map(|o| o.0) == Some(folder));
        let declared = by_name || beside.into_iter().any(|(_, text)| text.contains(&by_path));
        if !declared {
            broken.push(format!(
                "{path}: not declared; write `mod {name};` in {}",
                parents[0]
            ));
        }
    }
    broken
}

/// Folders of `src/` that the table of rooms does not know, and rooms that have no folder.
pub(crate) fn unknown_rooms(files: &Files) -> Vec<String> {
    let mut broken = Vec::new();
    for path in files.keys().filter(|path| path.starts_with("src/")) {
        let known =
            ["src/lib.rs", "src/main.rs"].contains(&path.as_str()) || room_of(path).is_some();
        if !known {
            broken.push(format!("{path}: not in a room that tests/tidy knows"));
        }
    }
    for room in ROOMS {
        if !files.contains_key(&format!("src/{}/mod.rs", room.name)) {
            broken.push(format!(
                "src/{}/mod.rs: the room in the table does not exist",
                room.name
            ));
        }
    }
    broken
}

/// Dependencies without a line of justification: a row of a table that starts with them, or a line
/// that names them in backticks.
pub(crate) fn unjustified(manifest: &str, architecture: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut broken = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end().ends_with("dependencies]");
            continue;
        }
        let Some((name, _)) = line.split_once('=').filter(|_| in_dependencies) else {
            continue;
        };
        let name = name.trim().trim_end_matches(".workspace");
        let justified = |line: &str| {
            line.starts_with(&format!("| {name} | ")) || line.contains(&format!("`{name}`"))
        };
        if !name.starts_with('#') && !architecture.lines().any(justified) {
            broken.push(format!(
                "Cargo.toml: `{name}` has no line in docs/ARCHITECTURE.md"
            ));
        }
    }
    broken
}

/// Rooms whose row in the published table of imports says otherwise than [`ROOMS`].
pub(crate) fn unlike_published(architecture: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for room in ROOMS {
        let row = architecture
            .lines()
            .find(|line| line.starts_with(&format!("| {} | ", room.name)));
        let published = row
            .and_then(|row| row.split('|').nth(3))
            .unwrap_or("-")
            .trim();
        let others = ROOMS
            .iter()
            .filter(|other| ![room.name, "cli"].contains(&other.name));
        let all = others
            .map(|other| other.name)
            .eq(room.imports.iter().copied());
        let said = if all {
            "all but cli".to_owned()
        } else {
            room.imports.join(", ")
        };
        if published != said {
            broken.push(format!(
                "docs/ARCHITECTURE.md: {} may import `{said}`",
                room.name
            ));
        }
    }
    broken
}

/// Files beyond the soft limit, with their lines.
pub(crate) fn long_files(files: &Files) -> impl Iterator<Item = (&str, usize)> {
    let lines = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.lines().count()));
    lines.filter(|&(_, lines)| lines > FILE_LINES_SOFT)
}

fn too_long(path: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        broken.push(format!(
            "{path}: {lines} lines, at most {FILE_LINES_MAX}; split it"
        ));
    }
    // A line that is one string literal cannot be broken without hurting the text.
    let is_text = |line: &str| line.trim_start().starts_with(['"', 'b', 'r']) && line.contains('"');
    for (index, line) in text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX && !is_text(line) {
            let line = index + 1;
            broken.push(format!(
                "{path}:{line}: {chars} characters, at most {LINE_CHARS_MAX}"
            ));
        }
    }
    broken
}

fn banned_words(path: &str, text: &str, code: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut find = |words: &[&str], text: &str| {
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|&word| line.contains(word)) {
                broken.push(format!("{path}:{}: `{word}` is not left in", index + 1));
            }
        }
    };
    find(&["todo!", "unimplemented!", "dbg!"], code);
    find(&[concat!("FIX", "ME"), concat!("XX", "X")], text);
    broken
}

/// `unsafe {` and `unsafe impl` without a `SAFETY:` comment on the lines above.
fn unexplained_unsafe(path: &str, text: &str, code: &str) -> Vec<String> {
    let text: Vec<&str> = text.lines().collect();
    let code: Vec<&str> = code.lines().collect();
    let opens = |line: &str| {
        line.match_indices("unsafe").any(|(at, word)| {
            let behind = line[at + word.len()..].trim_start();
            behind.starts_with('{') || behind.starts_with("impl")
        })
    };
    let mut broken = Vec::new();
    for (index, _) in code.iter().enumerate().filter(|(_, line)| opens(line)) {
        let ends_statement = |line: &str| line.trim_end().ends_with([';', '{', '}', ',']);
        let explained = (0..index).rev().map(|above| (text[above], code[above]));
        let statement =
            explained.take_while(|(text, code)| !text.trim().is_empty() && !ends_statement(code));
        if !statement
            .into_iter()
            .any(|(text, _)| text.contains("// SAFETY:"))
        {
            broken.push(format!(
                "{path}:{}: `unsafe` without a `// SAFETY:` note",
                index + 1
            ));
        }
    }
    broken
}

fn long_functions(path: &str, product: &str) -> Vec<String> {
    let long = functions(product)
        .into_iter()
        .filter(|f| f.lines > FUNCTION_LINES_MAX);
    let say = |f: super::source::Function| {
        let (name, line, lines) = (f.name, f.line, f.lines);
        format!("{path}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}")
    };
    long.map(say).collect()
}

fn imports(path: &str, room: &Room, product: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (line, to) in crate_paths(product) {
        if to != room.name && !room.imports.contains(&to.as_str()) {
            broken.push(format!(
                "{path}:{line}: {} may not import `crate::{to}`",
                room.name
            ));
        }
    }
    for (index, line) in product.lines().enumerate() {
        let climbs = "super::".repeat(depth(path));
        for hidden in ["use crate as", "use crate;", "flashover::", climbs.as_str()] {
            if line.contains(hidden) {
                let line = index + 1;
                broken.push(format!(
                    "{path}:{line}: `{hidden}` hides a room; write `crate::room`"
                ));
            }
        }
    }
    broken
}

/// How many `super::` lead from the file's module to the root.
fn depth(path: &str) -> usize {
    let parts = path.matches('/').count();
    if path.ends_with("/mod.rs") {
        parts - 1
    } else {
        parts
    }
}

fn unsafe_allowed(path: &str, room: &Room, code: &str) -> Vec<String> {
    let module = path.strip_prefix("src/").unwrap_or(path);
    let named = room.unsafe_modules.iter().any(|allowed| {
        let rest = module.strip_prefix(allowed);
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    });
    let flat: String = code.split_whitespace().collect();
    let allows = [
        "allow(unsafe_code",
        "expect(unsafe_code",
        "warn(unsafe_code",
    ];
    if !named && allows.iter().any(|allow| flat.contains(allow)) {
        vec![format!(
            "{path}: allows `unsafe` outside the modules named in tests/tidy"
        )]
    } else {
        Vec::new()
    }
}

/// A room says what it is for, forbids `unsafe` where it has none, and denies clocks and files
/// where it is pure.
fn charter(path: &str, room: &Room, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if path != format!("src/{}/mod.rs", room.name) {
        return broken;
    }
    if !text.starts_with("//! ") {
        broken.push(format!("{path}: a room starts with its charter, `//! ...`"));
    }
    if room.unsafe_modules.is_empty() && !text.contains("#![forbid(unsafe_code)]") {
        broken.push(format!("{path}: write #![forbid(unsafe_code)] at its head"));
    }
    let denial = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
    if room.pure && !text.contains(denial) {
        broken.push(format!("{path}: a pure room has {denial} at its head"));
    }
    broken
}

fn room_of(path: &str) -> Option<&'static Room> {
    let (room, _) = path.strip_prefix("src/")?.split_once('/')?;
    ROOMS.iter().find(|known| known.name == room)
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with("tests/")
        || path.contains("/tests/")
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
}
