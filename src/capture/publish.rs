//! An image becomes a bundle and its manifest.
