//! The tables, as each server can make them best.
//!
//! | table | a row is |
//! |---|---|
//! | `records` | a request; in the order of arrival, six hours to a partition |
//! | `batches` | a batch that is stored, or what a worker reported: who it was, what it counted |
//! | `identities` | where an identity was seen, batch by batch |
//! | `hours` | what is kept of an hour: of an address (`kind` 0), a country (1), everybody (2) |
//! | `jobs` | addresses and texts that a mutation under way asks for |
//!
//! What mutations ask for is in a table, so that no address is ever part of a statement: servers
//! keep those.

use super::client::Http;
use super::rows::read;
use crate::store::{Result, StoreError};

/// Version of the tables that this program knows.
const VERSION: u32 = 1;
/// Hours in a partition of records.
pub(super) const PARTITION_HOURS: i64 = 6;

/// What a server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    /// Codecs, low cardinality, skipping indices, insertion that waits for the disk: from 20.10
    /// on, when the last of them came.
    modern: bool,
}

impl Server {
    fn of_version(version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { modern: (major, minor) >= (20, 10) })
    }

    /// Whether a change can read what comes in the place of what from a table.
    pub(super) fn reads_in_changes(self) -> bool {
        self.modern
    }

    /// Whether rows are on the disk when an insert is answered.
    pub(super) fn is_durable(self) -> bool {
        self.modern
    }
}

/// Names of a table: the one that is asked, and the one that is changed.
pub(super) struct Names<'a> {
    cluster: Option<&'a str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(cluster: Option<&'a str>) -> Self {
        Self { cluster }
    }

    /// The table that holds the rows on each server.
    pub(super) fn local(&self, table: &str) -> String {
        if self.cluster.is_some() { format!("{table}_local") } else { table.to_owned() }
    }

    /// What makes a statement one of the whole cluster.
    pub(super) fn everywhere(&self) -> String {
        self.cluster.map(|cluster| format!(" ON CLUSTER {cluster}")).unwrap_or_default()
    }
}

/// A table as it is made.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, &'static str)],
    /// An expression; none for one partition.
    partition: &'static str,
    order: &'static str,
    /// A replacing one keeps the row with the highest value here.
    replacing: Option<&'static str>,
    /// What a cluster spreads rows by: rows of a batch stay together.
    shard: &'static str,
}

/// Columns of `records`, in the order of inserts.
pub(super) const RECORDS: &[(&str, &str)] = &[
    ("arrival", "Int32"),
    ("hour", "Int32"),
    ("id", "Int64 steps"),
    ("stream", "UInt64"),
    ("number", "UInt64"),
    ("received", "Int64 steps"),
    ("time", "Int64 steps"),
    ("ip", "String"),
    ("family", "UInt8"),
    ("form", "UInt8"),
    ("key", "UInt32"),
    ("opted_out", "UInt8"),
    ("verdict", "UInt8"),
    ("weight", "UInt32"),
    ("decision", "UInt32"),
    ("rule", "String few"),
    ("method", "String few"),
    ("host", "String few"),
    ("path", "String few"),
    ("query", "String"),
    ("status", "UInt16"),
    ("flags", "UInt64"),
    ("duration", "Int64"),
    ("bytes_in", "Int64"),
    ("bytes_out", "Int64"),
    ("user_agent", "String few"),
    ("request_id", "String"),
    ("proxy", "String few"),
    ("country", "String few"),
    ("city", "String few"),
    ("asn", "Int64"),
];

/// Columns of `batches`.
pub(super) const BATCHES: &[(&str, &str)] = &[
    ("stream", "UInt64"),
    ("number", "UInt64"),
    ("first_id", "Int64"),
    ("last_id", "Int64"),
    ("writer", "UInt8"),
    ("received", "Int64"),
    ("sent", "Int64"),
    ("started", "Int64"),
    ("proxy", "String"),
    ("version", "String"),
    ("epoch", "UInt64"),
    ("revision", "UInt64"),
    ("seen", "Int64"),
    ("lost", "Int64"),
    ("skipped", "Int64"),
    ("stored", "UInt64"),
];

/// Columns of `identities`.
pub(super) const IDENTITIES: &[(&str, &str)] = &[
    ("hour", "Int32"),
    ("stream", "UInt64"),
    ("number", "UInt64"),
    ("n", "UInt32"),
    ("identity", "String"),
    ("requests", "UInt64"),
    ("ip", "String"),
    ("family", "UInt8"),
    ("time", "Int64"),
    ("last_time", "Int64"),
];

/// Columns of `hours`.
pub(super) const HOURS: &[(&str, &str)] = &[
    ("kind", "UInt8"),
    ("hour", "Int32"),
    ("day", "Int32"),
    ("writer", "UInt8"),
    ("upto", "Int64"),
    ("ip", "String"),
    ("family", "UInt8"),
    ("form", "UInt8"),
    ("key", "UInt32"),
    ("country", "String"),
    ("requests", "UInt64"),
    ("refused", "UInt64"),
    ("addresses", "UInt64"),
    ("sensitive", "UInt64"),
    ("sensitive_path", "String"),
    ("client_errors", "UInt64"),
    ("server_errors", "UInt64"),
    ("statics", "UInt64"),
    ("bytes", "UInt64"),
    ("depth", "UInt64"),
    ("first_time", "Int64"),
    ("last_time", "Int64"),
    ("pieces", "Array(UInt64)"),
    ("gaps", "UInt64"),
    ("gap_ms", "UInt64"),
    ("gap_squares", "Float64"),
    ("methods", "UInt64"),
    ("paths", "Array(UInt16)"),
    ("agents", "Array(UInt16)"),
];

/// Columns of `jobs`.
const JOBS: &[(&str, &str)] =
    &[("job", "UInt64"), ("a", "String"), ("b", "String"), ("form", "UInt8"), ("key", "UInt32")];

const TABLES: &[Table] = &[
    Table {
        name: "records",
        columns: RECORDS,
        partition: "arrival",
        order: "hour, id",
        replacing: None,
        shard: "cityHash64(stream, number)",
    },
    Table {
        name: "batches",
        columns: BATCHES,
        partition: "toInt32(intDiv(received, 86400000000))",
        order: "stream, number, first_id",
        replacing: Some("sent"),
        shard: "cityHash64(stream)",
    },
    Table {
        name: "identities",
        columns: IDENTITIES,
        partition: "intDiv(hour, 168)",
        order: "hour, stream, number, n",
        replacing: Some("time"),
        shard: "cityHash64(stream)",
    },
    Table {
        name: "hours",
        columns: HOURS,
        partition: "intDiv(day, 30)",
        order: "kind, hour",
        replacing: None,
        shard: "day",
    },
    Table {
        name: "jobs",
        columns: JOBS,
        partition: "job",
        order: "a",
        replacing: None,
        shard: "job",
    },
];

impl Table {
    fn statements(&self, server: Server, names: &Names<'_>) -> Vec<String> {
        let local = names.local(self.name);
        let everywhere = names.everywhere();
        let mut columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, kind)| format!("{name} {}", column_type(kind, server)))
            .collect();
        if server.modern && self.name == "records" {
            columns.push("INDEX addresses ip TYPE bloom_filter(0.01) GRANULARITY 4".to_owned());
        }
        let replicated = if names.cluster.is_some() {
            let path =
                format!("'/clickhouse/tables/{{shard}}/{{database}}/{local}', '{{replica}}'");
            Some(if server.modern { path } else { path.replace("{database}", "ipwarden") })
        } else {
            None
        };
        let arguments: Vec<String> =
            replicated.iter().cloned().chain(self.replacing.map(str::to_owned)).collect();
        let engine = format!(
            "{}{}MergeTree({})",
            if replicated.is_some() { "Replicated" } else { "" },
            if self.replacing.is_some() { "Replacing" } else { "" },
            arguments.join(", ")
        );
        // The last mutation stays in a list, none before it.
        let mut settings = vec!["finished_mutations_to_keep = 1"];
        if server.modern {
            settings.extend(["fsync_after_insert = 1", "fsync_part_directory = 1"]);
            // What was changed or deleted is gone soon: nothing is kept against power cuts, since
            // what came in its place is on the disk.
            settings.extend(["min_rows_to_fsync_after_merge = 1", "old_parts_lifetime = 5"]);
        }
        let mut out = vec![format!(
            "CREATE TABLE IF NOT EXISTS {local}{everywhere} ({}) ENGINE = {engine} \
             PARTITION BY {} ORDER BY ({}) SETTINGS {}",
            columns.join(", "),
            self.partition,
            self.order,
            settings.join(", ")
        )];
        if let Some(cluster) = names.cluster {
            let columns: Vec<String> = self
                .columns
                .iter()
                .map(|(name, kind)| format!("{name} {}", bare_type(kind, server)))
                .collect();
            out.push(format!(
                "CREATE TABLE IF NOT EXISTS {}{everywhere} ({}) \
                 ENGINE = Distributed({cluster}, currentDatabase(), {local}, {})",
                self.name,
                columns.join(", "),
                self.shard
            ));
        }
        out
    }
}

/// The type of a column without how it is stored.
fn bare_type(kind: &str, server: Server) -> String {
    match kind.split_once(' ') {
        Some((kind, "few")) if server.modern => format!("LowCardinality({kind})"),
        Some((kind, _)) => kind.to_owned(),
        None => kind.to_owned(),
    }
}

fn column_type(kind: &str, server: Server) -> String {
    let bare = bare_type(kind, server);
    match kind.split_once(' ') {
        _ if !server.modern => bare,
        Some((_, "steps")) => format!("{bare} CODEC(Delta, ZSTD)"),
        _ => format!("{bare} CODEC(ZSTD)"),
    }
}

/// Makes what is missing, and says what the server can do.
pub(super) async fn prepare(http: &Http) -> Result<Server> {
    let url = http.url();
    let version = read(&http.ask("SELECT version()").await?, |row| row.text())?;
    let server =
        version.first().and_then(|version| Server::of_version(version)).ok_or_else(|| {
            StoreError::Unusable(format!("{url}: the server does not say which version it is"))
        })?;
    let names = Names::new(url.cluster.as_deref());
    let everywhere = names.everywhere();
    http.run(&format!(
        "CREATE TABLE IF NOT EXISTS ipwarden_schema{everywhere} (version UInt32) \
         ENGINE = MergeTree ORDER BY version"
    ))
    .await?;
    let found = http.ask("SELECT max(version) FROM ipwarden_schema").await?;
    let found = read(&found, |row| row.u32())?.first().copied().unwrap_or(0);
    if found > VERSION {
        return Err(StoreError::Unusable(format!(
            "{url} has tables of version {found}, this ipwarden knows {VERSION}: use the ipwarden that wrote them, or a later one"
        )));
    }
    for table in TABLES {
        for statement in table.statements(server, &names) {
            http.run(&statement).await?;
        }
    }
    if found < VERSION {
        http.run(&format!("INSERT INTO ipwarden_schema SELECT toUInt32({VERSION})")).await?;
    }
    Ok(server)
}

/// Names of columns, for an insert.
pub(super) fn columns(of: &[(&str, &str)]) -> String {
    of.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(version: &str, cluster: Option<&str>) -> String {
        let server = Server::of_version(version).unwrap();
        let names = Names::new(cluster);
        TABLES
            .iter()
            .flat_map(|table| table.statements(server, &names))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn what_an_old_server_can_not_do_is_left_out() {
        let old = made("18.16.1", None);
        let new = made("26.9.1.1", None);
        for word in ["CODEC", "LowCardinality", "INDEX", "fsync"] {
            assert!(!old.contains(word) && new.contains(word), "{word}");
        }
        assert_eq!(Server::of_version("nothing"), None);
        assert!(!Server::of_version("20.9.7.11").unwrap().is_durable());
        assert!(Server::of_version("20.10.1.1").unwrap().is_durable());
    }

    #[test]
    fn a_cluster_has_replicated_tables_behind_distributed_ones() {
        let made = made("26.9.1.1", Some("main"));
        assert!(
            made.contains(
                "CREATE TABLE IF NOT EXISTS records_local ON CLUSTER main (arrival Int32"
            )
        );
        assert!(made.contains(
            "ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/records_local', '{replica}') PARTITION BY arrival"
        ));
        assert!(made.contains(
            "ENGINE = Distributed(main, currentDatabase(), records_local, cityHash64(stream, number))"
        ));
        assert!(made.contains("'{replica}', sent) PARTITION BY"));
    }
}
