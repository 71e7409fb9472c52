//! Taking a tree or disk of this machine into the store.

use std::path::PathBuf;

use super::copy::{Copied, CopyError, copy_disk, copy_tree};
use super::{Image, ImageKind, Result, Store};
use crate::image::ImageName;
use crate::tree::ScanOptions;

/// What becomes an image.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A directory with all beneath it.
    Tree {
        /// The directory.
        path: PathBuf,
        /// What of it.
        options: ScanOptions,
    },
    /// A disk or partition, or a raw image of one.
    Disk {
        /// The device or file.
        path: PathBuf,
    },
}

impl Origin {
    /// The kind of image that it becomes.
    #[must_use]
    pub const fn kind(&self) -> ImageKind {
        match self {
            Self::Tree { .. } => ImageKind::Tree,
            Self::Disk { .. } => ImageKind::Disk,
        }
    }
}

/// Copies `origin` into the store as image `name`; `replace` allows to replace an image of that
/// name.
///
/// # Errors
/// If there is such an image, or anything cannot be read or written.
pub fn import(store: &Store, name: &ImageName, origin: &Origin, replace: bool) -> Result<Copied> {
    store.prepare()?;
    let to = store.image_path(name, origin.kind());
    let old = existing(store, name);
    if let Some(image) = old.iter().find(|_| !replace) {
        return Err(CopyError::Exists(image.path.clone()).into());
    }
    let copied = match origin {
        Origin::Tree { path, options } => copy_tree(path, &to, options, replace)?,
        Origin::Disk { path } => copy_disk(path, &to, replace)?,
    };
    // A tree that replaces a disk, or the other way round, has another path.
    for image in old.iter().filter(|image| image.path != to) {
        super::copy::remove(&image.path)?;
    }
    Ok(copied)
}

/// The images called `name`: none, one, or, by an accident, one of each kind.
#[must_use]
pub fn existing(store: &Store, name: &ImageName) -> Vec<Image> {
    [ImageKind::Tree, ImageKind::Disk]
        .into_iter()
        .map(|kind| Image {
            name: name.clone(),
            kind,
            path: store.image_path(name, kind),
        })
        .filter(|image| image.path.symlink_metadata().is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Error;
    use std::fs;

    #[test]
    fn an_image_is_replaced_only_when_asked_and_by_either_kind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"));
        let name: ImageName = "a".parse().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/file"), "1").unwrap();
        fs::write(dir.path().join("disk"), [0; 100_000]).unwrap();
        let tree = Origin::Tree {
            path: dir.path().join("tree"),
            options: ScanOptions::default(),
        };
        let disk = Origin::Disk {
            path: dir.path().join("disk"),
        };
        assert_eq!(import(&store, &name, &tree, false).unwrap().entries, 2);
        for origin in [&tree, &disk] {
            let error = import(&store, &name, origin, false).unwrap_err();
            assert!(
                matches!(error, Error::Copy(CopyError::Exists(_))),
                "{error}"
            );
        }
        import(&store, &name, &disk, true).unwrap();
        assert_eq!(store.image(&name).unwrap().kind, ImageKind::Disk);
        fs::write(dir.path().join("tree/file"), "2").unwrap();
        import(&store, &name, &tree, true).unwrap();
        import(&store, &name, &tree, true).unwrap();
        let image = store.image(&name).unwrap();
        assert_eq!(fs::read_to_string(image.path.join("file")).unwrap(), "2");
        assert_eq!(
            fs::read_dir(store.root().join("images")).unwrap().count(),
            1
        );
    }
}
