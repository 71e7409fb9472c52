//! How bytes move: ring, pool, net, disk, drive; knows no protocol.
