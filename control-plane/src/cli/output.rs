//! Where output goes and how it looks: three formats, tables, colours.
//!
//! Standard output carries the answer and nothing else: sentences and tables for people,
//! one JSON document, or tab-separated bare values. Notes, warnings and errors go to
//! standard error. Colours are written always and stripped where the other end is no
//! terminal or `NO_COLOR` is set. Foreign text is cleaned here, in cells and in raw
//! values, so that no command can forget it.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Width};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::error::{CliError, EXIT_DONE, Result};
use super::text::{clean, clean_json};

/// Errors.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Warnings.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// Success.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What matters in a sentence.
pub const STRONG: Style = Style::new().bold();
/// What matters less.
pub const FAINT: Style = Style::new().dimmed();

/// Space between two columns.
const GAP: u16 = 2;
/// A column that gives way gives way down to this.
const MIN_FLEXIBLE: u16 = 12;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// One JSON document.
    Json,
    /// Tab-separated bare values, one row a line, no headers.
    Raw,
}

/// What a command knows of its surroundings. Time comes from here and nowhere else.
pub struct Session {
    /// How answers are written.
    pub format: Format,
    /// The clock.
    pub clock: fn() -> Timestamp,
    /// The zone in which people are told times.
    pub zone: TimeZone,
    /// Columns of the terminal; absent when standard output is none.
    pub width: Option<u16>,
    /// Whether a person can be asked: standard input and error are a terminal.
    pub can_ask: bool,
    /// Whether progress is worth showing: standard error is a terminal.
    pub shows_progress: bool,
    /// Standard output, buffered.
    pub stdout: Box<dyn Write>,
    /// Standard error.
    pub stderr: Box<dyn Write>,
}

impl Session {
    /// The surroundings of this process.
    #[must_use]
    pub fn of_process(format: Format) -> Self {
        Self {
            format,
            clock: Timestamp::now,
            zone: TimeZone::system(),
            width: comfy_table::Table::new().width(),
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
            shows_progress: io::stderr().is_terminal(),
            stdout: Box::new(io::BufWriter::new(anstream::AutoStream::auto(io::stdout()))),
            stderr: Box::new(anstream::AutoStream::auto(io::stderr())),
        }
    }

    /// The present time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn say(&mut self, line: impl AsRef<str>) -> Result<()> {
        writeln!(self.stdout, "{}", line.as_ref())?;
        Ok(())
    }

    /// Writes a note to standard error.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn note(&mut self, line: impl AsRef<str>) -> Result<()> {
        self.stdout.flush()?;
        writeln!(self.stderr, "{}", line.as_ref())?;
        Ok(())
    }

    /// Writes a warning to standard error.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn warn(&mut self, line: impl AsRef<str>) -> Result<()> {
        self.note(format!("{WARN}warning:{WARN:#} {}", line.as_ref()))
    }

    /// Writes the one document of `-o json`.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn json(&mut self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(document).map_err(io::Error::other)?;
        self.say(clean_json(text))
    }

    /// Writes one object of a stream of them, on one line, at once.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn json_line(&mut self, object: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(object).map_err(io::Error::other)?;
        self.say(clean_json(text))?;
        Ok(self.stdout.flush()?)
    }

    /// Writes one row of `-o raw`.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn raw(&mut self, values: &[&str]) -> Result<()> {
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                self.stdout.write_all(b"\t")?;
            }
            self.stdout.write_all(clean(value).as_bytes())?;
        }
        Ok(self.stdout.write_all(b"\n")?)
    }

    /// Writes a table.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn table(&mut self, grid: Grid) -> Result<()> {
        let rendered = grid.render(self.width);
        self.say(rendered.text)?;
        if rendered.left_out.is_empty() {
            return Ok(());
        }
        self.note(format!(
            "{FAINT}this terminal is too narrow for: {}{FAINT:#}",
            rendered.left_out.join(", ")
        ))
    }

    /// Tells an error in the format of the session and returns its exit code.
    pub fn report(&mut self, error: &CliError) -> u8 {
        if error.is_closed_pipe() {
            return EXIT_DONE;
        }
        // Where standard error is gone too, the exit code is all that is left.
        let _ = self.stdout.flush();
        if !matches!(error, CliError::Exit(_)) {
            let _ = match self.format {
                Format::Json => writeln!(self.stderr, "{}", error_json(error)),
                Format::Human | Format::Raw => self.stderr.write_all(error_text(error).as_bytes()),
            };
        }
        let _ = self.stderr.flush();
        error.exit_code()
    }
}

/// An error as the JSON document of standard error.
#[must_use]
pub fn error_json(error: &CliError) -> String {
    let (places, total) = error.places();
    let mut object = serde_json::json!({
        "kind": error.kind(),
        "message": error.to_string(),
        "exit_code": error.exit_code(),
    });
    if let Some(mend) = error.mend() {
        object["mend"] = mend.into();
    }
    if total > 0 {
        object["errors"] = serde_json::json!(places);
        object["errors_total"] = total.into();
    }
    clean_json(serde_json::json!({ "error": object }).to_string())
}

/// An error for people, with its line feed.
#[must_use]
pub fn error_text(error: &CliError) -> String {
    let mut text = format!("{BAD}error:{BAD:#} {}\n", clean(&error.to_string()));
    let (places, total) = error.places();
    for place in places {
        text.push_str(&format!(
            "  {STRONG}{}{STRONG:#}: {}\n",
            clean(&place.place),
            clean(&place.message)
        ));
    }
    let unnamed = total.saturating_sub(places.len() as u64);
    if unnamed > 0 {
        text.push_str(&format!("  … and {} more\n", super::text::count(unnamed)));
    }
    if let Some(mend) = error.mend() {
        text.push_str(&format!("  {mend}\n"));
    }
    text
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    right: bool,
    flexible: bool,
    timed: bool,
    expendable: u8,
}

/// A column as wide as its content.
#[must_use]
pub const fn fixed(name: &'static str) -> Column {
    Column { name, right: false, flexible: false, timed: false, expendable: 0 }
}

/// A column of numbers: as wide as its content, to the right.
#[must_use]
pub const fn number(name: &'static str) -> Column {
    Column { right: true, ..fixed(name) }
}

/// A column of times: its header names the zone.
#[must_use]
pub const fn moment(name: &'static str) -> Column {
    Column { timed: true, ..fixed(name) }
}

/// A column that gives way where the terminal is narrow.
#[must_use]
pub const fn flexible(name: &'static str) -> Column {
    Column { flexible: true, ..fixed(name) }
}

impl Column {
    /// The same column, left out when it has nothing to say, or when the terminal is too
    /// narrow for all: the highest `rank` goes first.
    #[must_use]
    pub const fn expendable(self, rank: u8) -> Self {
        Self { expendable: rank, ..self }
    }
}

/// A table for people.
pub struct Grid {
    table: comfy_table::Table,
    columns: Vec<Column>,
    filled: Vec<bool>,
    one_line_rows: bool,
}

/// A table as text, without a trailing line feed. Colours are always in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its lines.
    pub text: String,
    /// The columns that a wider terminal would show.
    pub left_out: Vec<&'static str>,
}

impl Grid {
    /// An empty table. `zone` completes the name of every column that shows times.
    #[must_use]
    pub fn new(columns: &[Column], zone: &str) -> Self {
        let mut table = comfy_table::Table::new();
        let mut header = comfy_table::Row::from(columns.iter().map(|column| {
            let name = if column.timed {
                format!("{} ({})", column.name, clean(zone))
            } else {
                column.name.to_owned()
            };
            comfy_table::Cell::new(name).add_attribute(Attribute::Bold)
        }));
        header.max_height(1);
        table
            .load_style(NOTHING)
            .force_no_tty()
            .enforce_styling()
            .set_truncation_indicator("…")
            .set_header(header);
        let filled = vec![false; columns.len()];
        Self { table, columns: columns.to_vec(), filled, one_line_rows: false }
    }

    /// Cuts what does not fit instead of wrapping it.
    #[must_use]
    pub fn one_line_rows(mut self) -> Self {
        self.one_line_rows = true;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        for (filled, cell) in self.filled.iter_mut().zip(&cells) {
            *filled |= !cell.empty;
        }
        let mut row = comfy_table::Row::from(cells.into_iter().map(|cell| cell.shown));
        if self.one_line_rows {
            row.max_height(1);
        }
        self.table.add_row(row);
    }

    /// Lays the table out for a terminal of `width` columns; as wide as it gets without.
    #[must_use]
    pub fn render(mut self, width: Option<u16>) -> Rendered {
        let widths = self.table.column_max_content_widths();
        let mut shown: Vec<usize> = (0..self.columns.len())
            .filter(|&index| {
                self.column(index).expendable == 0 || self.filled.get(index) == Some(&true)
            })
            .collect();
        let mut left_out = Vec::new();
        while let Some(width) = width
            && self.least_width(&shown, &widths) > u32::from(width)
            && let Some(place) = (0..shown.len())
                .filter(|&place| self.expendable(&shown, place) > 0)
                .max_by_key(|&place| self.expendable(&shown, place))
        {
            left_out.push(self.column(shown.remove(place)).name);
        }
        if let Some(width) = width {
            self.table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        for (index, column) in self.columns.iter().enumerate() {
            let Some(target) = self.table.column_mut(index) else { continue };
            let gap = if shown.last() == Some(&index) { 0 } else { GAP };
            target.set_padding((0, gap));
            if column.right {
                target.set_cell_alignment(CellAlignment::Right);
            }
            let content = widths.get(index).copied().unwrap_or(0);
            target.set_constraint(if !shown.contains(&index) {
                ColumnConstraint::Hidden
            } else if column.flexible && content > MIN_FLEXIBLE {
                ColumnConstraint::LowerBoundary(Width::Fixed(MIN_FLEXIBLE + gap))
            } else {
                ColumnConstraint::ContentWidth
            });
        }
        let lines: Vec<String> = self.table.lines().map(|line| trimmed(&line)).collect();
        Rendered { text: lines.join("\n"), left_out }
    }

    fn column(&self, index: usize) -> Column {
        self.columns.get(index).copied().unwrap_or(fixed(""))
    }

    fn expendable(&self, shown: &[usize], place: usize) -> u8 {
        shown.get(place).map_or(0, |&index| self.column(index).expendable)
    }

    /// The least that these columns need side by side.
    fn least_width(&self, shown: &[usize], widths: &[u16]) -> u32 {
        let needed = shown.iter().map(|&index| {
            let content = widths.get(index).copied().unwrap_or(0);
            let least =
                if self.column(index).flexible { content.min(MIN_FLEXIBLE) } else { content };
            u32::from(least + GAP)
        });
        needed.sum::<u32>().saturating_sub(u32::from(GAP))
    }
}

/// A line without the padding at its end, which may stand before the end of a colour.
fn trimmed(line: &str) -> String {
    let line = line.trim_end();
    let escape = line.rfind('\u{1b}').filter(|start| line.ends_with('m') && line.len() - start < 8);
    match escape.and_then(|start| line.split_at_checked(start)) {
        Some((text, reset)) => format!("{}{reset}", text.trim_end()),
        None => line.to_owned(),
    }
}

/// One cell of a table. Its text is cleaned.
pub struct Cell {
    shown: comfy_table::Cell,
    empty: bool,
}

/// A plain cell.
#[must_use]
pub fn cell(text: impl AsRef<str>) -> Cell {
    let text = text.as_ref();
    Cell { shown: comfy_table::Cell::new(clean(text)), empty: text.is_empty() }
}

impl Cell {
    /// The same, red.
    #[must_use]
    pub fn bad(self) -> Self {
        Self { shown: self.shown.fg(Color::Red), ..self }
    }

    /// The same, yellow.
    #[must_use]
    pub fn warn(self) -> Self {
        Self { shown: self.shown.fg(Color::Yellow), ..self }
    }

    /// The same, green.
    #[must_use]
    pub fn good(self) -> Self {
        Self { shown: self.shown.fg(Color::Green), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Place;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn grid() -> Grid {
        let mut grid = Grid::new(
            &[moment("time"), number("status"), flexible("path"), fixed("proxy").expendable(1)],
            "UTC",
        )
        .one_line_rows();
        grid.row(vec![cell("16:00:00"), cell("200"), cell("/a"), cell("edge-1")]);
        let long = "/a/very/long/path/that/does/not/fit";
        grid.row(vec![cell("16:00:01"), cell("5").bad(), cell(long), cell("")]);
        grid
    }

    #[test]
    fn columns_are_aligned_and_lines_not_padded() {
        assert_eq!(
            plain(&grid().render(None).text),
            "time (UTC)  status  path                                 proxy\n\
             16:00:00       200  /a                                   edge-1\n\
             16:00:01         5  /a/very/long/path/that/does/not/fit"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_the_flexible_column_first() {
        let rendered = grid().render(Some(50));
        assert_eq!(
            plain(&rendered.text),
            "time (UTC)  status  path                    proxy\n\
             16:00:00       200  /a                      edge-1\n\
             16:00:01         5  /a/very/long/path/tha…"
        );
        assert!(rendered.left_out.is_empty());
    }

    #[test]
    fn a_narrower_one_leaves_out_what_can_be_spared_and_says_so() {
        let rendered = grid().render(Some(38));
        assert_eq!(
            plain(&rendered.text),
            "time (UTC)  status  path\n\
             16:00:00       200  /a\n\
             16:00:01         5  /a/very/long/path…"
        );
        assert_eq!(rendered.left_out, ["proxy"]);
    }

    #[test]
    fn a_spare_column_without_content_is_not_shown() {
        let mut grid = Grid::new(&[fixed("ip"), flexible("place").expendable(1)], "UTC");
        grid.row(vec![cell("203.0.113.7"), cell("")]);
        let rendered = grid.render(None);
        assert_eq!(plain(&rendered.text), "ip\n203.0.113.7");
        assert!(rendered.left_out.is_empty());
    }

    #[test]
    fn cells_never_carry_escape_sequences_of_clients() {
        let mut grid = Grid::new(&[flexible("path")], "UTC");
        grid.row(vec![cell("/\u{1b}]0;owned\u{7}\nnext")]);
        assert_eq!(plain(&grid.render(None).text), "path\n/\\u{1b}]0;owned\\u{7}\\nnext");
    }

    #[test]
    fn errors_name_places_and_count_the_rest() {
        let error = CliError::Input {
            message: "21 lines of bad.txt are no targets; nothing was sent".to_owned(),
            places: vec![Place {
                place: "line 3".to_owned(),
                message: "prefix length '/33' is out of range: expected /0 to /32".to_owned(),
            }],
            total: 21,
        };
        assert_eq!(
            plain(&error_text(&error)),
            "error: 21 lines of bad.txt are no targets; nothing was sent\n  \
               line 3: prefix length '/33' is out of range: expected /0 to /32\n  \
               … and 20 more\n"
        );
        let json: serde_json::Value = serde_json::from_str(&error_json(&error)).unwrap();
        assert_eq!(json["error"]["kind"], "input");
        assert_eq!(json["error"]["exit_code"], 2);
        assert_eq!(json["error"]["errors"][0]["place"], "line 3");
        assert_eq!(json["error"]["errors_total"], 21);
    }
}
