//! A disk made by stock tools, through import, publish and unpack, and through zstd and GNU tar.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::tar::unpack_with_stock_tools;
use crate::cli::process::{flashover, run};
use crate::damage::unpack::{Loop, run as system};
use crate::nasty;

const DISK_BYTES: u64 = 300 << 20;
const PARTITION_BYTES: u64 = 96 << 20;

/// A disk with a partition table, an ext4 with files and a journal, much that is a hole, and zeros
/// that are none.
fn make_disk(dir: &Path) -> PathBuf {
    let disk = dir.join("disk.img");
    File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
    let files = dir.join("files");
    fs::create_dir_all(files.join("etc")).unwrap();
    fs::write(files.join("etc/hostname"), "node\n").unwrap();
    fs::write(files.join("large"), nasty::noise((9 << 20) + 77)).unwrap();
    let kib = (PARTITION_BYTES >> 10).to_string();
    let (files, disk_path) = (files.to_str().unwrap(), disk.to_str().unwrap());
    let options = ["-q", "-E", "offset=1048576", "-d", files, disk_path, &kib];
    system("mkfs.ext4", &options);
    let file = File::options().write(true).open(&disk).unwrap();
    let (start, count) = (2048u32, (PARTITION_BYTES >> 9) as u32);
    let mut boot = vec![0x80, 0, 2, 0, 0x83, 0, 2, 0];
    boot.extend([start.to_le_bytes(), count.to_le_bytes()].concat());
    boot.resize(64, 0);
    boot.extend([0x55, 0xaa]);
    file.write_all_at(&boot, 446).unwrap();
    file.write_all_at(&vec![0; 8 << 20], 130 << 20).unwrap();
    file.write_all_at(b"alone", 250 << 20).unwrap();
    file.write_all_at(b"odd", (260 << 20) + 4095).unwrap();
    disk
}

fn allocated(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

fn flashover_in(store: &Path, arguments: &[&str]) {
    let mut command = flashover();
    command.arg("--store").arg(store).args(arguments);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
}

#[test]
fn a_disk_survives_our_own_way_and_the_stock_tools() {
    nasty::require_root();
    let dir = tempfile::tempdir().unwrap();
    let disk = make_disk(dir.path());
    let store = dir.path().join("store");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    flashover_in(&store, &["key", "generate"]);
    flashover_in(&store, &["image", "import", "d", "--disk", &text(&disk)]);
    flashover_in(&store, &["image", "publish", "d"]);
    flashover_in(&store, &["image", "verify", "d"]);

    let ours = dir.path().join("ours.img");
    let stock = dir.path().join("stock");
    fs::create_dir(&stock).unwrap();
    // What was in the file before does not shine through.
    fs::write(&ours, vec![0xff; 20 << 20]).unwrap();
    flashover_in(
        &store,
        &["image", "unpack", "d", "--to-device", &text(&ours)],
    );
    unpack_with_stock_tools(&store.join("bundles/d-1.tar.zst"), &stock);
    // The zeros that were none are holes, too; all else has its place and no more.
    let data_bytes_max = allocated(&disk) - (8 << 20);
    for copy in [&ours, &stock.join("d.img")] {
        system("cmp", &[&text(&disk), &text(copy)]);
        let taken = allocated(copy);
        assert!(taken <= data_bytes_max, "{taken} of {data_bytes_max}");
        assert!(taken > 9 << 20, "{taken}");
    }

    let device = Loop::new(&dir.path().join("larger"), DISK_BYTES as usize + (4 << 20));
    flashover_in(&store, &["image", "unpack", "d", "--to-device", &device.0]);
    let bytes = DISK_BYTES.to_string();
    system("cmp", &["--bytes", &bytes, &text(&disk), &device.0]);
    let behind = fs::read(&device.0).unwrap();
    assert!(
        behind[DISK_BYTES as usize..]
            .iter()
            .all(|&byte| byte == 0xff)
    );

    system(
        "e2fsck",
        &["-fn", &format!("{}?offset=1048576", text(&ours))],
    );
}
