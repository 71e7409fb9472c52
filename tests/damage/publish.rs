//! Publishing when the store or the source is against it: a clear word, an exit code, nothing left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::unpack::{mount_tmpfs, run as system};
use crate::cli::process::{Ended, flashover, run};
use crate::nasty;

/// A store, and a tree beside it.
struct Site {
    dir: tempfile::TempDir,
}

const PAGE: u64 = 4096;

impl Site {
    fn new() -> Self {
        nasty::require_root();
        let site = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(site.tree()).unwrap();
        fs::write(site.tree().join("large"), nasty::noise(3_000_000)).unwrap();
        // A manifest of some pages: it holds names as they are, the bundle packs them.
        for index in 0..200 {
            let name = format!("{index:03}-{}", "n".repeat(240));
            fs::write(site.tree().join(name), "").unwrap();
        }
        site
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn flashover(&self, arguments: &[&str]) -> Ended {
        let mut command = flashover();
        command.arg("--store").arg(self.store()).args(arguments);
        run(command)
    }

    fn good(&self, arguments: &[&str]) -> Ended {
        let ended = self.flashover(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended
    }

    fn import(&self) -> Ended {
        let tree = self.tree();
        self.flashover(&["image", "import", "t", "--tree", tree.to_str().unwrap()])
    }

    fn names_in(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store().join(folder)).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(|entry| name(entry.unwrap())).collect()
    }
}

fn pages(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len().div_ceil(PAGE)
}

/// Gives the tmpfs so many free pages.
fn leave(at: &Path, free: u64) {
    let about = rustix::fs::statvfs(at).unwrap();
    let size = (about.f_blocks - about.f_bfree + free) * PAGE;
    let options = format!("remount,size={size}");
    system("mount", &["-o", &options, at.to_str().unwrap()]);
}

#[test]
fn a_full_store_is_named_and_the_next_publication_works() {
    let site = Site::new();
    let store = site.store();
    let _mount = mount_tmpfs(&store, "size=64m");
    site.good(&["key", "generate"]);
    assert_eq!(site.import().code, Some(0));
    site.good(&["image", "publish", "t"]);
    let bundle = store.join("bundles/t-1.tar.zst");
    let manifest = store.join("bundles/t-1.manifest");
    let torrent = store.join("bundles/t-1.torrent");
    let (bundle_pages, manifest_pages) = (pages(&bundle), pages(&manifest));
    let torrent_pages = pages(&torrent);
    assert!(bundle_pages > 500 && manifest_pages > 5);
    let content = fs::read(&bundle).unwrap();
    fs::remove_file(&bundle).unwrap();
    fs::remove_file(&manifest).unwrap();
    fs::remove_file(&torrent).unwrap();

    // In the middle of the bundle, at its end, before the torrent, before the manifest and in it.
    for free in [
        bundle_pages / 2,
        bundle_pages - 1,
        bundle_pages,
        bundle_pages + torrent_pages,
        bundle_pages + torrent_pages + manifest_pages - 1,
    ] {
        leave(&store, free);
        let ended = site.flashover(&["image", "publish", "t"]);
        assert_eq!(ended.code, Some(7), "{free} pages: {ended:?}");
        assert!(ended.stderr.contains("Cannot write"), "{ended:?}");
        assert!(ended.stderr.contains("No space left"), "{ended:?}");
        assert_eq!(site.names_in("bundles"), [""; 0], "{free} pages");
    }
    leave(&store, bundle_pages + torrent_pages + manifest_pages);
    site.good(&["image", "publish", "t"]);
    assert!(fs::read(&bundle).unwrap() == content);
    site.good(&["image", "verify", "t"]);
}

#[test]
fn an_import_into_a_full_store_leaves_nothing() {
    let site = Site::new();
    let store = site.store();
    let _mount = mount_tmpfs(&store, "size=1m");
    let ended = site.import();
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stderr.contains("large"), "{ended:?}");
    assert!(ended.stderr.contains("No space left"), "{ended:?}");
    assert_eq!(site.names_in("images"), [""; 0]);
    leave(&store, 4000);
    assert_eq!(site.import().code, Some(0));
}

#[test]
fn an_unreadable_file_is_named_and_nothing_is_published() {
    let site = Site::new();
    site.good(&["key", "generate"]);
    assert_eq!(site.import().code, Some(0));
    let secret = site.store().join("images/t/secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0)).unwrap();
    // Root without its capabilities: what it owns it can read only as the mode allows.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command.arg(env!("CARGO_BIN_EXE_flashover"));
    command.arg("--store").arg(site.store());
    command.args(["image", "publish", "t"]);
    let ended = run(command);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.stderr.contains("Cannot open secret"), "{ended:?}");
    assert!(ended.stderr.contains("Permission denied"), "{ended:?}");
    assert_eq!(site.names_in("bundles"), [""; 0]);
    site.good(&["image", "publish", "t"]);
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_exit_code_4() {
    use std::io::Write as _;
    let site = Site::new();
    site.good(&["key", "generate"]);
    assert_eq!(site.import().code, Some(0));
    let path = site.store().join("images/t/large");
    let mut file = fs::File::options().append(true).open(path).unwrap();
    let ended = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| site.flashover(&["image", "publish", "t"]));
        while !publishing.is_finished() {
            file.write_all(b"x").unwrap();
        }
        publishing.join().unwrap()
    });
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("large changed while"), "{ended:?}");
    assert!(ended.stderr.contains("publish again"), "{ended:?}");
    assert_eq!(site.names_in("bundles"), [""; 0]);
    site.good(&["image", "publish", "t"]);
}
