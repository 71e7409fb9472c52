//! The house rules, read from the source.
//!
//! [`ROOMS`] is the law: who may import whom. Every rule is a function of paths and texts, so that
//! `tests.rs` can show each of them to fail on a text that breaks it. What the rules read is the
//! source with comments, literals and test modules blanked out, see `source.rs`.

mod rules;
mod source;
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A room: a folder of `src/`.
#[derive(Debug)]
pub(crate) struct Room {
    name: &'static str,
    /// The rooms whose paths it may write, besides its own.
    imports: &'static [&'static str],
    /// Bytes, times and randomness come from the caller; clocks, files and threads are denied.
    pure: bool,
    /// The modules that may allow `unsafe`; with none, the room forbids it.
    unsafe_modules: &'static [&'static str],
}

/// The import table. Change it together with the table in `docs/ARCHITECTURE.md`.
#[rustfmt::skip]
pub(crate) const ROOMS: &[Room] = &[
    Room { name: "base", pure: true, unsafe_modules: &[],
        imports: &[] },
    Room { name: "machine", pure: true, unsafe_modules: &[],
        imports: &["base"] },
    Room { name: "image", pure: true, unsafe_modules: &[],
        imports: &["base"] },
    Room { name: "fec", pure: true, unsafe_modules: &["fec/simd"],
        imports: &["base"] },
    Room { name: "multicast", pure: true, unsafe_modules: &[],
        imports: &["base", "machine", "image", "fec"] },
    Room { name: "swarm", pure: true, unsafe_modules: &[],
        imports: &["base", "machine", "image"] },
    Room { name: "tree", pure: false, unsafe_modules: &[],
        imports: &["base", "image"] },
    Room { name: "engine", pure: false,
        unsafe_modules: &["engine/ring", "engine/pool", "engine/net/sys"],
        imports: &["base", "machine"] },
    Room { name: "capture", pure: false, unsafe_modules: &[],
        imports: &["base", "image", "swarm", "tree", "engine"] },
    Room { name: "install", pure: false, unsafe_modules: &[],
        imports: &["base", "image", "tree", "engine"] },
    Room { name: "monitor", pure: false, unsafe_modules: &[],
        imports: &["base"] },
    Room { name: "deploy", pure: false, unsafe_modules: &[],
        imports: &["base", "machine", "image", "fec", "multicast", "swarm", "tree", "engine",
            "capture", "install", "monitor"] },
    Room { name: "cli", pure: false, unsafe_modules: &[],
        imports: &["base", "image", "tree", "deploy", "capture", "install", "monitor"] },
];

/// Source files by path from the package's root, with `/`.
pub(crate) type Files = BTreeMap<String, String>;

#[test]
fn the_house_is_tidy() {
    let files = read_package();
    let read = |path: &str| fs::read_to_string(package().join(path)).unwrap_or_default();
    let mut broken: Vec<String> = Vec::new();
    for (path, text) in &files {
        broken.extend(rules::file(path, text));
    }
    broken.extend(rules::undeclared(&files));
    broken.extend(rules::unknown_rooms(&files));
    let architecture = read("docs/ARCHITECTURE.md");
    broken.extend(rules::unjustified(&read("Cargo.toml"), &architecture));
    broken.extend(rules::unlike_published(&architecture));
    for (path, lines) in rules::long_files(&files) {
        println!(
            "warning: {path} has {lines} lines, more than {}",
            rules::FILE_LINES_SOFT
        );
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_package() -> Files {
    let mut files = Files::new();
    for folder in ["src", "tests", "benches", "fuzz/fuzz_targets"] {
        read_folder(&package().join(folder), &mut files);
    }
    assert!(
        files.contains_key("src/lib.rs"),
        "the package's source is found"
    );
    files
}

fn read_folder(folder: &Path, files: &mut Files) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a folder that opens can be listed").path();
        if path.is_dir() {
            read_folder(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(package()).expect("it lies below");
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            files.insert(name.to_string_lossy().into_owned(), text);
        }
    }
}
