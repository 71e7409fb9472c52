//! How bytes move: memory, sockets, files, and the loop that drives a machine over the real kernel.
//!
//! ```text
//!   pool   Arena: blocks of memory that the ring knows
//!   net    sockets (multicast, GSO/GRO; TCP) and network interfaces
//!   disk   reads and writes of whole runs of bytes
//!   ring   the owner of an io_uring and of everything in flight in it
//!   drive  Driver: one machine, one thread, one backend (ring, or plain system calls)
//!   ways   the ways to ask the kernel, fast and slow
//!   probe  what this kernel can do
//! ```
//!
//! The room knows no protocol: it imports `base` and the contract in `machine`, and moves bytes for
//! whichever machine a job gives it. Unsafe code lives in `pool`, `ring` and `net::sys` only.

pub mod disk;
pub mod drive;
pub mod error;
pub mod limits;
pub mod mailbox;
pub mod net;
pub mod pool;
pub mod probe;
mod ring;
pub mod ways;

pub use drive::{Driver, Setup};
pub use error::{Error, ErrorKind, Result};
pub use mailbox::{Commands, Mailbox, mailbox};
pub use net::{Interface, Listener, Socket};
pub use pool::Arena;
pub use probe::{Capabilities, RingFound, SocketFound, probe};
pub use ways::{Backend, Ways};
