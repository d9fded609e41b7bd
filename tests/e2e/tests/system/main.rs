//! The whole system in a real Envoy.

mod command_line;
mod decisions;
mod failures;
mod hostile;
mod large;
mod records;
