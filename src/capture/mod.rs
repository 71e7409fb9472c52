//! A tree or disk becomes an image, an image becomes a bundle.
