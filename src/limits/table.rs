//! The bounded table of buckets in shared data.
