//! Tables for people: aligned, as wide as the terminal, and honest about what did not fit.
//!
//! Every cell is cleaned here, so that no command can forget it.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Width};

use super::text::clean;

/// Space between two columns.
const GAP: u16 = 2;
/// A column that gives way gives way down to this.
const MIN_FLEXIBLE: u16 = 12;

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
}
