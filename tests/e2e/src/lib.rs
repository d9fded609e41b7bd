//! The whole system in a real Envoy.
