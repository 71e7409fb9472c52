//! Hurt inputs: every action at every place ends in a named error, never in wrong bytes.

mod publish;
pub mod unpack;
