//! A WHERE clause put together from parts, values always bound.

use rusqlite::types::Value;

/// Conditions that must all hold. Start with [`Conditions::new`]; parts name their values by
/// `?`, in order.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    /// A first condition without values.
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    /// Adds one more.
    pub(super) fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    /// The clause.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    /// The values of its `?`.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }
}
