//! Output of the verbs: a plain aligned table for people, JSON for programs.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use serde::Serialize;

/// How a verb prints its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON document; its field names stay
    Json,
}

/// The option of every verb that prints a table: flatten it into the verb's arguments.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// How to print the answer
    #[arg(long, short, value_enum, default_value_t, env = "FLANNEL_CTL_OUTPUT")]
    pub output: OutputFormat,
}

/// Left-aligned columns, two spaces apart, no lines and no trailing blanks.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Headings are capitals by custom: `NODE`, `PUBLIC IP`.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.into_iter().map(str::to_owned).collect()] }
    }

    /// Key and value lines, without headings.
    pub fn plain() -> Self {
        Self { rows: Vec::new() }
    }

    /// An empty cell is shown as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}  ").expect("writing to a String cannot fail");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints `value` as JSON, or the table that `table` makes of it.
pub fn print<T: Serialize>(format: OutputFormat, value: &T, table: impl FnOnce(&T) -> String) -> io::Result<()> {
    match format {
        OutputFormat::Table => emit(&table(value)),
        OutputFormat::Json => {
            let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
            text.push('\n');
            emit(&text)
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
pub fn emit(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    forgive_closed_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn forgive_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Names and reasons come from other machines: nothing in them may move the cursor.
pub fn printable(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let mut table = Table::new(["NODE", "SUBNET", "ERROR"]);
        table.row(["alpha".into(), "10.5.48.0/24".into(), String::new()]);
        table.row(["ü".into(), "10.5.1.0/24".into(), "no".into()]);
        assert_eq!(
            table.render(),
            "NODE   SUBNET        ERROR\n\
             alpha  10.5.48.0/24  -\n\
             ü      10.5.1.0/24   no\n"
        );
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        let mut table = Table::plain();
        table.row(["\u{1b}[2Jx\ny".into()]);
        assert_eq!(table.render(), "\u{fffd}[2Jx\u{fffd}y\n");
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_full_disk_is_not() {
        assert!(forgive_closed_pipe(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(forgive_closed_pipe(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
