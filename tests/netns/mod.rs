//! Head and nodes over real kernels sockets, in network namespaces. Serial.
