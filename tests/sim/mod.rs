//! The machines in the simulated world, from seeds.
