//! Columns that the SQL stores read alike.

macro_rules! suspect {
    () => {
        "id, target, status, severity, score, first_seen, last_seen, country, city, asn, reasons, \
         flags, decision, closed_at, closed_by, form, key"
    };
}

/// Reads suspects, with the columns in the order of [`suspect`].
pub(super) const SELECT_SUSPECT: &str = concat!("SELECT ", suspect!(), " FROM suspects");

/// The columns of a suspect, each with `prefix`.
pub(super) fn suspect(prefix: &str) -> String {
    let named: Vec<String> = suspect!().split(", ").map(|name| format!("{prefix}{name}")).collect();
    named.join(", ")
}
