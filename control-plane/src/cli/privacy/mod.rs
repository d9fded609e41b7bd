//! What is kept of people: `retention`, `keys`, `reveal`, `subject`.

pub mod keys;
pub mod retention;
pub mod subject;
