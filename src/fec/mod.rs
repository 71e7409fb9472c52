//! RaptorQ (RFC 6330) behind validation: everything is checked before the codec sees it.
