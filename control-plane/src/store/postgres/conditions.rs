//! The conditions of a query, with their values.

use tokio_postgres::types::ToSql;

use super::connection::Value;

/// Conditions that must all hold. `?` in them stands for the next value.
pub(super) struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Conditions {
    pub(super) fn new(first: &str) -> Self {
        Self { sql: first.to_owned(), values: Vec::new() }
    }

    /// Adds a condition with as many values as it has question marks.
    pub(super) fn and<const N: usize>(
        &mut self,
        condition: &str,
        values: [Box<dyn ToSql + Sync + Send>; N],
    ) {
        self.sql.push_str(" AND ");
        self.then(condition, values);
    }

    /// Adds what comes after the conditions, in the same way.
    pub(super) fn then<const N: usize>(
        &mut self,
        text: &str,
        values: [Box<dyn ToSql + Sync + Send>; N],
    ) {
        let mut number = self.values.len();
        for (n, part) in text.split('?').enumerate() {
            if n > 0 {
                number += 1;
                self.sql.push_str(&format!("${number}"));
            }
            self.sql.push_str(part);
        }
        self.values.extend(values);
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn values(&self) -> Vec<Value<'_>> {
        self.values.iter().map(|value| value.as_ref() as Value<'_>).collect()
    }
}
