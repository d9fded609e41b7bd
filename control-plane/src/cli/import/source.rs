//! Tables of a Django app: in its SQLite file, or each in a CSV file with a header line.
//!
//! Tables are found by the end of their names, because Django puts the app's label before it;
//! columns by name, because migrations may have added some. Rows are read one at a time.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::cli::error::{CliError, Result};
use crate::cli::text::clean;

/// First bytes of a SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Longest value that is read of a row, in bytes.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Blocked addresses.
    Blocked,
    /// Suspicious addresses.
    Suspects,
}

impl Kind {
    /// All of them, in the order in which they are imported.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Blocked, Self::Suspects];

    /// The end of its table's name: the model's name as Django writes it.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Requests => "requestlog",
            Self::Blocked => "blockedip",
            Self::Suspects => "suspiciousip",
        }
    }

    /// Columns: the first names are needed, those after them used where they are. A column has
    /// one of several names.
    const fn columns(self) -> (&'static [&'static [&'static str]], usize) {
        const WHEN: &[&str] = &["timestamp", "flagged_at", "detected_at", "created_at"];
        match self {
            Self::Requests => {
                (&[&["id"], &["ip_address"], &["timestamp"], &["path"], &["country"], &["city"]], 4)
            }
            Self::Blocked => (&[&["id"], &["ip_address"]], 2),
            Self::Suspects => (&[&["id"], &["ip_address"], &["reason"], WHEN], 3),
        }
    }
}

/// A table that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it holds.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The app's label: its name without the model's.
    pub app: String,
    file: PathBuf,
    is_csv: bool,
    /// For each column of [`Kind::columns`] its name in the table, or its place in the line.
    columns: Vec<Option<(String, usize)>>,
}

/// A row, its columns in the order of `Kind::columns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `ip_tracking_requestlog row 17`, `requestlog.csv line 18`.
    pub place: String,
    /// Texts as they are stored; `None` for nothing.
    pub values: Vec<Option<String>>,
}

impl Row {
    /// A column's text without what is around it; `None` when there is nothing in it.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&str> {
        let text = self.values.get(column)?.as_deref()?.trim();
        (!text.is_empty()).then_some(text)
    }
}

/// Finds the tables in some files, one of a kind; of all apps, or of the one named.
///
/// # Errors
/// [`CliError::File`]; [`CliError::Usage`] when a file is neither, a table lacks a column, or
/// it is not clear which table is meant.
pub fn find(files: &[PathBuf], app: Option<&str>) -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for file in files {
        let found = if is_sqlite(file)? { in_sqlite(file)? } else { vec![in_csv(file)?] };
        tables.extend(found);
    }
    if let Some(app) = app {
        let mut apps: Vec<_> = tables.iter().map(|table| clean(&table.app).into_owned()).collect();
        apps.dedup();
        tables.retain(|table| table.app == app);
        if tables.is_empty() {
            return Err(CliError::Usage(format!(
                "no table of the app '{}' was found, but of: {}",
                clean(app),
                apps.join(", ")
            )));
        }
    }
    tables.sort_by_key(|table| table.kind);
    for pair in tables.windows(2) {
        if let [first, second] = pair
            && first.kind == second.kind
        {
            return Err(CliError::Usage(format!(
                "{} and {} both end in {}: name the app with --app, one import for each",
                clean(&first.name),
                clean(&second.name),
                first.kind.suffix()
            )));
        }
    }
    Ok(tables)
}

fn refused(file: &Path) -> impl Fn(io::Error) -> CliError + '_ {
    move |source| CliError::File { path: file.display().to_string(), source }
}

fn is_sqlite(file: &Path) -> Result<bool> {
    let mut begin = Vec::new();
    let opened = File::open(file).map_err(refused(file))?;
    opened.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut begin).map_err(refused(file))?;
    Ok(begin == SQLITE_MAGIC)
}

fn open(file: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(file, flags).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &rusqlite::Error) -> CliError {
    CliError::Usage(format!(
        "{} can't be read as a SQLite database: {error}; copy it with `sqlite3 FILE '.backup COPY'` and import the copy",
        file.display()
    ))
}

fn in_sqlite(file: &Path) -> Result<Vec<Table>> {
    let database = open(file)?;
    let failed = |error: rusqlite::Error| unreadable(file, &error);
    let mut names = database
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .map_err(failed)?;
    let names = names.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
    let names = names.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut tables = Vec::new();
    for name in &names {
        let Some(kind) = kind_of(name) else { continue };
        let mut columns =
            database.prepare("SELECT name FROM pragma_table_info(?1)").map_err(failed)?;
        let columns = columns.query_map([name], |row| row.get(0)).map_err(failed)?;
        let columns = columns.collect::<Result<Vec<String>, _>>().map_err(failed)?;
        tables.push(table(kind, name, file, false, &columns)?);
    }
    if tables.is_empty() {
        let endings = Kind::ALL.map(|kind| format!("…{}", kind.suffix())).join(", ");
        let shown: Vec<_> = names.iter().take(20).map(|name| clean(name)).collect();
        return Err(CliError::Usage(format!(
            "{} has no table whose name ends in {endings}; it has: {}",
            file.display(),
            if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
        )));
    }
    Ok(tables)
}

fn in_csv(file: &Path) -> Result<Table> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let Some(kind) = kind_of(stem) else {
        let names = Kind::ALL.map(|kind| format!("…{}.csv", kind.suffix())).join(", ");
        return Err(CliError::Usage(format!(
            "{} is no SQLite database, and as a CSV file its name must end in one of {names}",
            file.display()
        )));
    };
    let mut reader = csv_reader(file)?;
    let headers = reader.headers().map_err(|error| bad_csv(file, &error))?;
    let columns: Vec<String> =
        headers.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
    table(kind, stem, file, true, &columns)
}

fn csv_reader(file: &Path) -> Result<csv::Reader<File>> {
    let opened = File::open(file).map_err(refused(file))?;
    Ok(csv::ReaderBuilder::new().flexible(true).from_reader(opened))
}

fn bad_csv(file: &Path, error: &csv::Error) -> CliError {
    CliError::Usage(format!("{} can't be read as CSV: {error}", file.display()))
}

fn kind_of(name: &str) -> Option<Kind> {
    let name = name.to_ascii_lowercase();
    Kind::ALL.into_iter().find(|kind| name.ends_with(kind.suffix()))
}

fn table(kind: Kind, name: &str, file: &Path, is_csv: bool, found: &[String]) -> Result<Table> {
    let (wanted, needed) = kind.columns();
    let place = |names: &[&str]| {
        names.iter().find_map(|name| {
            let at = found.iter().position(|found| found.eq_ignore_ascii_case(name))?;
            Some((found.get(at)?.clone(), at))
        })
    };
    let columns: Vec<_> = wanted.iter().map(|names| place(names)).collect();
    let missing: Vec<&str> = wanted
        .iter()
        .zip(&columns)
        .take(needed)
        .filter(|(_, column)| column.is_none())
        .filter_map(|(names, _)| names.first().copied())
        .collect();
    if !missing.is_empty() {
        let has: Vec<_> = found.iter().map(|name| clean(name)).collect();
        return Err(CliError::Usage(format!(
            "{} has no column {}; it has: {}",
            clean(name),
            missing.join(", "),
            has.join(", ")
        )));
    }
    let app = name.get(..name.len() - kind.suffix().len()).unwrap_or_default();
    let app = app.trim_end_matches(['_', '.', '-']);
    let app = if app.is_empty() { "django" } else { app };
    Ok(Table {
        kind,
        name: name.to_owned(),
        app: app.to_owned(),
        file: file.to_owned(),
        is_csv,
        columns,
    })
}

impl Table {
    /// How many rows there are, or bytes of a CSV file: for progress.
    ///
    /// # Errors
    /// Those of reading.
    pub fn size(&self) -> Result<u64> {
        if self.is_csv {
            return Ok(std::fs::metadata(&self.file).map_err(refused(&self.file))?.len());
        }
        let sql = format!("SELECT count(*) FROM {}", quoted(&self.name));
        let rows: i64 = open(&self.file)?
            .query_row(&sql, [], |row| row.get(0))
            .map_err(|error| unreadable(&self.file, &error))?;
        Ok(rows.unsigned_abs())
    }

    /// Whether [`Self::size`] is in bytes.
    #[must_use]
    pub const fn counts_bytes(&self) -> bool {
        self.is_csv
    }

    /// Reads the rows in the order of their ids (CSV: of their lines).
    ///
    /// # Errors
    /// Those of reading.
    pub fn rows(&self) -> Result<Rows> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1_024);
        let table = self.clone();
        // A thread of its own: a statement borrows its connection, and who takes the rows
        // waits for the service in between.
        std::thread::Builder::new()
            .name("rows".to_owned())
            .spawn(move || {
                let read =
                    if table.is_csv { table.read_csv(&sender) } else { table.read_sqlite(&sender) };
                if let Err(error) = read {
                    // Whoever reads may have gone.
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(|error| CliError::Start(format!("the system refuses a thread: {error}")))?;
        Ok(Rows(receiver))
    }

    fn read_sqlite(&self, sink: &Sink) -> Result<()> {
        let failed = |error: rusqlite::Error| unreadable(&self.file, &error);
        let database = open(&self.file)?;
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| match column {
                Some((name, _)) => quoted(name),
                None => "NULL".to_owned(),
            })
            .collect();
        let id = columns.first().map_or("1", String::as_str);
        let sql =
            format!("SELECT {} FROM {} ORDER BY {id}", columns.join(", "), quoted(&self.name));
        let mut statement = database.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let mut values = Vec::with_capacity(columns.len());
            for column in 0..columns.len() {
                values.push(as_text(row.get_ref(column).map_err(failed)?));
            }
            let id = values.first().cloned().flatten().unwrap_or_default();
            let row = Row { place: format!("{} row {}", self.name, id), values };
            if sink.send(Ok((row, 1))).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_csv(&self, sink: &Sink) -> Result<()> {
        let mut reader = csv_reader(&self.file)?;
        let name = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut before = 0;
        let mut record = csv::ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(|error| bad_csv(&self.file, &error))? {
            let values = self
                .columns
                .iter()
                .map(|column| {
                    let (_, at) = column.as_ref()?;
                    Some(bounded(record.get(*at)?))
                })
                .collect();
            let line = record.position().map_or(0, csv::Position::line);
            let row = Row { place: format!("{name} line {line}"), values };
            let now = reader.position().byte();
            if sink.send(Ok((row, now - before))).is_err() {
                return Ok(());
            }
            before = now;
        }
        Ok(())
    }
}

type Sink = std::sync::mpsc::SyncSender<Result<(Row, u64)>>;

/// Rows, each with how much of [`Table::size`] it is.
#[derive(Debug)]
pub struct Rows(std::sync::mpsc::Receiver<Result<(Row, u64)>>);

impl Iterator for Rows {
    type Item = Result<(Row, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn as_text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bounded(bytes)),
    }
}

fn bounded(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_VALUE_BYTES).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}
