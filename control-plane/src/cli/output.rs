//! Where output goes and how it looks: three formats, colours.
//!
//! Standard output carries the answer and nothing else: sentences and tables for people,
//! one JSON document, or tab-separated bare values. Notes, warnings and errors go to
//! standard error. Colours are written always and stripped where the other end is no
//! terminal or `NO_COLOR` is set. Raw values and JSON are cleaned here, cells in
//! [`super::table`].

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::error::{CliError, EXIT_DONE, Result};
use super::table::Grid;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::Place;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
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
