//! Extended attributes of anything in a tree, links and devices too.
//!
//! The kernel (before 6.13) has no call that takes (directory, name). `/proc/self/fd/N/NAME` with
//! the `l` calls is the same: the part before the name leads to exactly the open directory, and a
//! link as the last name is not followed.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::image::Xattr;

/// Reads attributes, with buffers that are used again for every file.
#[derive(Debug)]
pub struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
}

/// The kernel's `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const XATTR_BYTES_MAX: usize = 1 << 16;

impl Default for Reader {
    fn default() -> Self {
        Self {
            names: vec![0; XATTR_BYTES_MAX],
            value: vec![0; XATTR_BYTES_MAX],
        }
    }
}

impl Reader {
    /// Reads all attributes of a name in a directory, sorted; of the directory itself if the name
    /// is empty.
    pub(super) fn read(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Vec<Xattr>, Errno> {
        let path = path_in(directory, name)?;
        let path = path.as_c_str();
        let len = match rustix::fs::llistxattr(path, &mut self.names[..]) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(errno),
        };
        let mut xattrs = Vec::new();
        for name in self.names[..len]
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            match rustix::fs::lgetxattr(path, name, &mut self.value[..]) {
                Ok(len) => xattrs.push(Xattr {
                    name: name.into(),
                    value: self.value[..len].into(),
                }),
                // Removed since, or listed although nobody may read it.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }
}

/// Sets an attribute of a name in a directory; of the directory itself if the name is empty.
pub(super) fn set(directory: BorrowedFd<'_>, name: &[u8], xattr: &Xattr) -> Result<(), Errno> {
    let path = path_in(directory, name)?;
    rustix::fs::lsetxattr(
        path.as_c_str(),
        &*xattr.name,
        &xattr.value,
        XattrFlags::empty(),
    )
}

/// Removes an attribute of a name in a directory; of the directory itself if the name is empty.
pub(super) fn remove(directory: BorrowedFd<'_>, name: &[u8], xattr: &[u8]) -> Result<(), Errno> {
    let path = path_in(directory, name)?;
    rustix::fs::lremovexattr(path.as_c_str(), xattr)
}

fn path_in(directory: BorrowedFd<'_>, name: &[u8]) -> Result<CString, Errno> {
    let mut path = Vec::with_capacity(32 + name.len());
    path.extend_from_slice(b"/proc/self/fd/");
    path.extend_from_slice(directory.as_raw_fd().to_string().as_bytes());
    path.push(b'/');
    // The slash alone leads on from the magic link to the directory itself.
    if name.is_empty() {
        path.push(b'.');
    }
    path.extend_from_slice(name);
    CString::new(path).map_err(|_| Errno::INVAL)
}
