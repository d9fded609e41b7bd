//! The whole system in a real Envoy.

mod command_line;
mod crowdsec;
mod decisions;
mod detect;
mod failures;
mod figures;
mod geo;
mod geo_data;
mod host_calls;
mod hostile;
mod limits;
mod privacy;
mod protocols;
mod records;
mod shared_state;
mod updates;
