//! The files in `envoy/` that other systems read: each must be what that system understands,
//! and what is ours in them must be what we understand.

mod compose;
mod kubernetes;
mod metrics;
mod yaml;
