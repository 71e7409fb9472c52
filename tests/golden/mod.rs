//! Every format version ever released still reads, byte for byte.
