//! The arithmetic of a token bucket.
