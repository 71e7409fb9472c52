use super::*;
use crate::capture::ImageKind;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

fn store_with_tree() -> (tempfile::TempDir, Store, ImageName) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path());
    store.generate_key(false).unwrap();
    let name: ImageName = "t".parse().unwrap();
    let root = store.image_path(&name, ImageKind::Tree);
    fs::create_dir_all(root.join("d/z")).unwrap();
    fs::write(root.join("d/small"), b"hello").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    let large: Vec<u8> = (0..3_500_000u32)
        .map(|at| (at.wrapping_mul(at) >> 7) as u8)
        .collect();
    fs::write(root.join("d/large"), large).unwrap();
    fs::hard_link(root.join("d/large"), root.join("d/z/link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(b"middle", 100_000_000).unwrap();
    (directory, store, name)
}

fn run(store: &Store, name: &ImageName, options: &Options) -> Result<Published> {
    publish(store, name, options, &Events::ignore())
}

#[test]
fn what_is_published_has_the_hashes_that_b3sum_prints() {
    let (_directory, store, name) = store_with_tree();
    let published = run(&store, &name, &Options::default()).unwrap();
    let (manifest, _) = store.load_manifest(&name, Serial(1)).unwrap();
    assert_eq!(manifest, published.manifest);
    let bundle = fs::read(&published.bundle).unwrap();
    assert_eq!(manifest.root, crate::image::Hash::of(&bundle));
    let root = store.image(&name).unwrap().path;
    for path in ["d/small", "d/large", "sparse", "empty"] {
        let entry = &manifest.entries[manifest.find(path.as_bytes()).unwrap().as_usize()];
        let EntryKind::File { hash, .. } = &entry.kind else {
            panic!("{path} is a file");
        };
        assert_eq!(
            *hash,
            crate::image::Hash::of(&fs::read(root.join(path)).unwrap())
        );
    }
    assert!(manifest.data_size() < 4 << 20);
}

#[test]
fn frames_restore_what_their_extents_say() {
    let (_directory, store, name) = store_with_tree();
    let published = run(&store, &name, &Options::default()).unwrap();
    let manifest = published.manifest;
    let bundle = fs::read(&published.bundle).unwrap();
    let root = store.image(&name).unwrap().path;
    let offsets = manifest.frame_offsets();
    for (index, frame) in manifest.frames.iter().enumerate() {
        let packed = &bundle[offsets[index] as usize..offsets[index + 1] as usize];
        let content = zstd::bulk::decompress(packed, frame.content_size as usize).unwrap();
        assert_eq!(content.len(), frame.content_size as usize);
        for extent in manifest.extents_of(index as u32) {
            let path = String::from_utf8(manifest.path_of(extent.entry)).unwrap();
            let mut expected = vec![0; extent.len as usize];
            let file = fs::File::open(root.join(path)).unwrap();
            file.read_exact_at(&mut expected, extent.file_offset)
                .unwrap();
            let start = extent.frame_offset as usize;
            assert!(content[start..start + expected.len()] == expected);
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes_however_many_work() {
    let (_directory, store, name) = store_with_tree();
    let first = run(&store, &name, &Options::default()).unwrap();
    let again = run(&store, &name, &Options::default()).unwrap();
    assert!(again.unchanged && again.manifest == first.manifest);
    let forced = Options {
        force: true,
        workers: NonZero::new(1),
        ..Options::default()
    };
    let third = run(&store, &name, &forced).unwrap();
    assert_eq!(third.manifest.serial, Serial(2));
    assert!(fs::read(&first.bundle).unwrap() == fs::read(&third.bundle).unwrap());
    fs::write(store.image(&name).unwrap().path.join("new"), b"x").unwrap();
    let fourth = run(&store, &name, &Options::default()).unwrap();
    assert_eq!(fourth.manifest.serial, Serial(3));
    assert!(!store.temporary_path().exists());
}

#[test]
fn a_file_that_changes_is_named_and_nothing_is_left() {
    let harms: [fn(&Path); 5] = [
        |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(3_400_000).unwrap();
        },
        |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(b"another", 9).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("small", path).unwrap();
        },
        |path| {
            let folder = path.parent().unwrap();
            fs::rename(folder, folder.with_file_name("e")).unwrap();
        },
    ];
    for (index, harm) in harms.into_iter().enumerate() {
        let (_directory, store, name) = store_with_tree();
        let root = store.image(&name).unwrap().path;
        let path = root.join("d/large");
        // It comes to harm when the first frame is done; many small files before it keep the
        // workers from having read it by then.
        for index in 0..20 {
            fs::write(root.join(format!("a{index:02}")), vec![index; 1 << 20]).unwrap();
        }
        let once = std::sync::Once::new();
        let events = Events::new(move |_| once.call_once(|| harm(&path)));
        let options = Options {
            workers: NonZero::new(1),
            ..Options::default()
        };
        let error = publish(&store, &name, &options, &events).unwrap_err();
        assert!(
            matches!(&error, Error::Changed { path } if path == "d/large"),
            "harm {index}: {error:?}"
        );
        assert!(!store.temporary_path().exists());
        assert_eq!(store.latest(&name).unwrap(), None);
        run(&store, &name, &Options::default()).unwrap();
    }
}

#[test]
fn a_disk_has_its_zeros_as_holes() {
    let (_directory, store, _) = store_with_tree();
    let name: ImageName = "disk".parse().unwrap();
    let file = fs::File::create(store.image_path(&name, ImageKind::Disk)).unwrap();
    file.set_len(10 << 20).unwrap();
    file.write_all_at(&vec![0; 2 << 20], 1 << 20).unwrap();
    file.write_all_at(b"boot", 0).unwrap();
    file.write_all_at(b"end", (10 << 20) - 3).unwrap();
    let manifest = run(&store, &name, &Options::default()).unwrap().manifest;
    let EntryKind::File { data, .. } = &manifest.entries[0].kind else {
        panic!("a disk is a file");
    };
    let end = 10 << 20;
    assert_eq!(data.as_deref(), Some(&[0..4096, end - 4096..end][..]));
    let survey = survey(&store, &name).unwrap();
    assert_eq!((survey.serial, survey.kind), (Serial(2), Kind::Disk));
}

#[test]
fn a_full_disk_or_missing_key_is_named() {
    let (_directory, store, name) = store_with_tree();
    fs::remove_dir_all(store.root().join("bundles")).ok();
    fs::write(store.root().join("bundles"), b"in the way").unwrap();
    assert!(matches!(
        run(&store, &name, &Options::default()),
        Err(Error::Store { .. })
    ));
    fs::remove_dir_all(store.root().join("keys")).unwrap();
    assert!(matches!(
        run(&store, &name, &Options::default()),
        Err(Error::NoKey(_))
    ));
}
