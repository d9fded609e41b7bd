//! The ipwarden control plane: service, command line, dashboard.
//!
//! | module | owns |
//! |---|---|
//! | [`accesslog`] | access logs of other programs, line by line |
//! | [`api`] | the handlers, by resource |
//! | [`app`] | the service's parts, put together once |
//! | [`auth`] | tokens: who may do what |
//! | [`cli`] | the command line: arguments, output, exit codes |
//! | [`clock`] | the only source of time |
//! | [`assets`] | the dashboard's files, in the binary |
//! | [`config`] | the service's configuration: all errors at once, each with its place |
//! | [`detect`] | finding the suspicious ones: what detectors see and say |
//! | [`feeds`] | lists that others publish, and what we publish for others |
//! | [`fleet`] | the proxies: what they have applied, what they lost |
//! | [`geo`] | where addresses are: databases in memory, replaced while running |
//! | [`hub`] | the decision stream: changes in order, to every proxy at once |
//! | [`ingest`] | batches on their way into the log store |
//! | [`leadership`] | who does what must not be done twice, of several control planes |
//! | [`limits`] | changes that lie over the limits that the proxies configure |
//! | [`live`] | records as they are stored, for whoever watches |
//! | [`mask`] | what viewers see of addresses |
//! | [`metrics`] | what is counted |
//! | [`model`] | the words of the domain as types: what the API speaks and the stores keep |
//! | [`notify`] | telling others of suspects and blocks: webhooks, chat |
//! | [`privacy`] | what the people behind addresses are owed |
//! | [`problem`] | errors as clients see them |
//! | [`regions`] | decisions by country and autonomous system |
//! | [`router`] | the whole URL table: paths, roles, time limits |
//! | [`serve`] | start and orderly end |
//! | [`session`] | logins of the dashboard: cookies, and what keeps other sites out |
//! | [`store`] | two traits, state and log, and the stores behind them |
//! | [`suspects`] | whom detectors flagged, why, and what became of it |
//! | [`telemetry`] | log lines |

pub mod accesslog;
pub mod api;
pub mod app;
pub mod assets;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod detect;
pub mod feeds;
pub mod fleet;
pub mod geo;
mod hex;
pub mod hub;
pub mod ingest;
pub mod leadership;
pub mod limits;
pub mod live;
pub mod mask;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod privacy;
pub mod problem;
pub mod regions;
pub mod router;
pub mod serve;
pub mod session;
pub mod store;
pub mod suspects;
pub mod telemetry;
pub mod transparency;
