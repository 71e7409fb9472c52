//! The binary, run as a user runs it: help, output, exit codes.
