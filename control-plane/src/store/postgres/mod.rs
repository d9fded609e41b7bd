//! State in PostgreSQL, shared by several control planes.
//!
//! | module | owns |
//! |---|---|
//! | [`location`] | the URL, checked; TLS; timeouts |
//! | `connection` | the pool, transactions, what is tried again, whether the server answers |
//! | `failure` | what an error means |
//! | `schema` | migrations, one at a time whoever starts |
//! | `news` | the connection that listens to what others changed, and the lease of who leads |
//! | `state` | decisions, limits, suspects, tokens, audit |
//!
//! Invariants: one order of revisions without a gap, however many write (whoever changes
//! decisions or limits holds the row that counts them); a change is durable when the call that
//! made it returns (the server's `synchronous_commit`); an error never names a password, nor a
//! client's address. The only clock is the server's, and only for leases.

mod conditions;
mod connection;
mod failure;
pub mod location;
mod news;
mod schema;
mod state;

pub use location::Location;
pub use state::PostgresState;
