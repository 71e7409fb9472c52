//! The node side: a bundle becomes a tree or a disk, and is proven to have become it.
