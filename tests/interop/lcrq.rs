//! liblcrq, an implementation of RFC 6330 that shares nothing with ours, makes the same repair
//! symbols. A small program of its own links it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flashover::fec::{Code, ESI_MAX, Esi, Kernel, RaptorQ, Shape};

#[test]
fn liblcrq_makes_the_same_repair_symbols() {
    let scratch = tempfile::tempdir().expect("there is a place for it");
    let program = build(scratch.path());
    // liblcrq wants symbols of whole words; blocks may end in the middle of one.
    for (count, symbol_size, cut) in [
        (1, 16, 0),
        (2, 64, 3),
        (10, 132, 0),
        (11, 1400, 77),
        (101, 256, 1),
        (250, 1400, 0),
        (745, 1408, 384),
        (1000, 64, 5),
        (2048, 32, 0),
        (2049, 32, 31),
    ] {
        let shape = Shape::new(count as usize * usize::from(symbol_size) - cut, symbol_size)
            .expect("it is in range");
        let block = crate::netns::lab::noise(count.into(), shape.block_size());
        let ids = [0, 1, 2, 77, 1 << 16, 1 << 20].map(|after: u32| count + after);
        let esis: Vec<Esi> = (ids.into_iter().chain([ESI_MAX - 1, ESI_MAX]))
            .map(|id| Esi::new(id).expect("24 bits"))
            .collect();
        let theirs = run(&program, shape, &block, &esis);
        for kernel in std::iter::once(None).chain(Kernel::all().map(Some)) {
            let mut ours = vec![0; theirs.len()];
            RaptorQ::with(kernel)
                .repair(0, shape, &block, &esis, &mut ours)
                .expect("these are repair symbols");
            assert!(ours == theirs, "{shape:?}, {kernel:?}");
        }
    }
}

fn build(folder: &Path) -> PathBuf {
    let program = folder.join("interop-lcrq");
    let output = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/interop-lcrq.c"))
        .arg("-llcrq")
        .output()
        .expect("there is a C compiler");
    assert!(
        output.status.success(),
        "Needs liblcrq-dev: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}

/// The repair symbols of the block as liblcrq makes them, one after the other.
fn run(program: &Path, shape: Shape, block: &[u8], esis: &[Esi]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg(shape.block_size().to_string())
        .arg(shape.symbol_size().to_string())
        .args(esis.iter().map(|esi| esi.get().to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was built");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(block).expect("the program reads all of it");
    drop(stdin);
    let output = child
        .wait_with_output()
        .expect("it ends after the last symbol");
    assert!(output.status.success(), "{shape:?}: {}", output.status);
    assert_eq!(
        output.stdout.len(),
        esis.len() * usize::from(shape.symbol_size())
    );
    output.stdout
}
