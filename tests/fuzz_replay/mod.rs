//! The fuzz targets on their committed corpora, and on mutations of those from seeds.

mod peer_seeds;
mod seeds;
mod swarm_seeds;
#[path = "../../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "the fuzz package needs them public")]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flashover::machine::world::Random;

/// How many mutated inputs each target gets.
const MUTATIONS: u64 = 3000;

#[test]
fn corpora_replay() {
    for (name, target) in targets::ALL {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} has inputs");
        for (path, input) in &corpus {
            println!("{}", path.display());
            target(input);
        }
    }
}

#[test]
fn row_35_mutated_inputs_replay() {
    for (name, target) in targets::ALL {
        let corpus = corpus(name);
        for seed in 0..MUTATIONS {
            let mut random = Random::new(seed);
            let (path, input) = &corpus[below(&mut random, corpus.len())];
            let (_, other) = &corpus[below(&mut random, corpus.len())];
            let mutated = mutate(input, other, &mut random);
            let replay = std::panic::AssertUnwindSafe(|| target(&mutated));
            if std::panic::catch_unwind(replay).is_err() {
                let path = path.display();
                panic!("{name}: mutation {seed} of {path} panics: {mutated:02x?}");
            }
        }
    }
}

#[test]
fn every_target_is_a_binary_and_has_a_corpus() {
    let known: BTreeSet<String> = targets::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let stems = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(folder)).expect("the folder is there");
        let path = |entry: std::io::Result<fs::DirEntry>| entry.expect("it can be read").path();
        let stem = |path: PathBuf| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        };
        entries.map(|entry| stem(path(entry))).collect()
    };
    assert_eq!(stems("fuzz_targets"), known);
    assert_eq!(stems("corpus"), known);
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(name);
    let Ok(entries) = fs::read_dir(&folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("it can be read")))
        .collect()
}

/// A few random changes: bits, bytes, cuts, repeats, and splices with another input.
fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    const INTERESTING: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = below(random, bytes.len() + 1);
        let action = random.below(7);
        if at == bytes.len() && action < 4 {
            bytes.push(random.bits().to_le_bytes()[0]);
            continue;
        }
        match action {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = INTERESTING[below(random, INTERESTING.len())],
            2 => bytes[at] = random.bits().to_le_bytes()[0],
            3 => drop(bytes.remove(at)),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + below(random, 16)).min(bytes.len());
                let run = bytes[at..end].to_vec();
                bytes.splice(at..at, run);
            }
            _ => {
                let from = below(random, other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).expect("it is below a usize")
}
