//! The multicast sender, receiver and announcement machines, their wire format, and the policy of pacing and repair.
