//! The binary against stock tools.
