//! Tables for people.

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// The rows with their columns below each other, two spaces between them.
pub(crate) fn columns(rows: &[Vec<String>], align: &[Align]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..align.len()).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(widths.iter().zip(align)).map(|(cell, (&width, align))| match align {
            Align::Left => format!("{cell:width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A share from 0 to 1 as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["a", "n"], ["long", "10"], ["", "7"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows, &[Align::Left, Align::Right]), "a      n\nlong  10\n       7\n");
        assert_eq!(percent(0.123), "12.3 %");
    }
}
