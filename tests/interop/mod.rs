//! The binary against stock tools.

mod tar;
