//! Joins image, transports, engine and monitor into running jobs.
