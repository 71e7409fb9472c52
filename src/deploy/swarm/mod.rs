//! What joins the machines of the `swarm` room to this machine's network: small tasks that speak to
//! their owner by channels alone.
//!
//! ```text
//!   announce   Announcer  -- trackers by HTTP and UDP ----> addresses of peers
//!   lsd        Discovery  -- multicast on interfaces -----> peers of this network
//!   webseed    Fetch      -- byte ranges by HTTP ---------> pieces, or why there are none
//!   member     Torrent    -- peers, a file ---------------> what it tells of pieces and peers
//!   files      the files of a torrent, as one run of bytes; spread lets a machine have them as one
//!   run        how the swarm of a run, sealed by its secret, is called and joined
//! ```

pub mod announce;
pub mod lsd;
pub mod webseed;

pub(crate) mod files;
pub(crate) mod member;
pub(crate) mod plain;
pub(crate) mod run;
mod spread;
