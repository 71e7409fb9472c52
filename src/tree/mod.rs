//! File trees of this machine: read and created always beneath a root, by directory descriptors.
