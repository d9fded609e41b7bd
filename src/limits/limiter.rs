//! One request through matching, identity, keys and buckets.
