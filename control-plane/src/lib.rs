//! The ipwarden control plane: service, command line, dashboard.
//!
//! | module | owns |
//! |---|---|
//! | [`model`] | the words of the domain as types: what the API speaks and the stores keep |
//! | [`store`] | two traits, state and log, and the stores behind them |

pub mod model;
pub mod store;
