//! Writes `docs/balancing.md`, and sees that it stays true.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use crate::{
    model::Nanos,
    policies,
    scenarios::{self, Row, Scenario},
    svg,
};

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Milliseconds with one digit after the point.
pub(crate) fn millis(nanos: Nanos) -> String {
    let tenths = (nanos + 50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Per cent with two digits after the point. Not 100 unless it is, nor 0.
pub(crate) fn percent(millionths: u64) -> String {
    let hundredths = match (millionths + 50) / 100 {
        10_000 if millionths < 1_000_000 => 9_999,
        0 if millionths > 0 => 1,
        other => other,
    };
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn table(rows: &[Row]) -> String {
    let header = ["policy", "p50 ms", "p99 ms", "p99.9 ms", "to bad %", "success %"].map(str::to_owned);
    let cells = |row: &Row| {
        let to_bad = row.to_bad.map_or_else(|| "-".to_owned(), percent);
        [row.policy.to_owned(), millis(row.p50), millis(row.p99), millis(row.p999), to_bad, percent(row.success)]
    };
    let rows: Vec<_> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let _ = write!(text, "| {:<w$} |", row[0], w = widths[0]);
        for (cell, w) in row.iter().zip(widths).skip(1) {
            let _ = write!(text, " {cell:>w$} |");
        }
        text.push('\n');
        if i == 0 {
            let _ = write!(text, "|{}|", "-".repeat(widths[0] + 2));
            for w in widths.iter().skip(1) {
                let _ = write!(text, "{}:|", "-".repeat(w + 1));
            }
            text.push('\n');
        }
    }
    text
}

/// The page with each table between its marks replaced by a new one.
fn rewritten(page: &str, tables: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut out = page.to_owned();
    for (slug, table) in tables {
        let (begin, end) = (format!("<!-- simulated: {slug} -->\n"), "<!-- end -->");
        let from = out.find(&begin).ok_or_else(|| format!("the page has no place for {slug}"))? + begin.len();
        let to = out[from..].find(end).ok_or_else(|| format!("the place for {slug} has no end"))? + from;
        out.replace_range(from..to, table);
    }
    Ok(out)
}

fn played(scenario: &Scenario) -> Vec<Row> {
    policies::all().iter().filter(|setup| setup.is_told).map(|setup| scenario.play(setup)).collect()
}

/// Compares, or with `SIM_WRITE` set writes.
fn compare_or_write(path: &PathBuf, wanted: &str) {
    if std::env::var_os("SIM_WRITE").is_some() {
        fs::write(path, wanted).expect("the page can be written");
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let differs = wanted.lines().zip(found.lines()).position(|(wanted, found)| wanted != found);
    let line = differs.unwrap_or_else(|| wanted.lines().count().min(found.lines().count()));
    assert!(
        wanted == found,
        "{} is not what the simulator finds; `just sim` writes it anew. Line {}: {:?}, not {:?}",
        path.display(),
        line + 1,
        found.lines().nth(line),
        wanted.lines().nth(line),
    );
}

#[test]
fn the_page_is_true() {
    let (began, mut simulated) = (tokio::time::Instant::now(), 0);
    let mut tables = BTreeMap::new();
    for scenario in scenarios::all() {
        let rows = played(&scenario);
        simulated += scenario.world.length / crate::model::SECOND * rows.len() as u64;
        let table = table(&rows);
        println!("{}\n{table}", scenario.title);
        tables.insert(scenario.slug, format!("\n{table}\n"));
        let plot = svg::plot(scenario.title, &rows);
        compare_or_write(&docs().join("balancing").join(format!("{}.svg", scenario.slug)), &plot);
    }
    let took = began.elapsed().as_secs_f64();
    println!("{simulated} simulated seconds in {took:.1} s: {:.0} seconds a second", simulated as f64 / took);
    let path = docs().join("balancing.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    compare_or_write(&path, &rewritten(&page, &tables).expect("the page has its marks"));
}

#[test]
fn another_number_on_the_page_is_noticed() {
    let tables = BTreeMap::from([("a", "1\n".to_owned())]);
    let page = "# A\n<!-- simulated: a -->\n1\n<!-- end -->\n";
    assert_eq!(rewritten(page, &tables).as_deref(), Ok(page));
    assert_eq!(rewritten(&page.replace('1', "2"), &tables).as_deref(), Ok(page));
    assert!(rewritten("# A\n", &tables).is_err());
}

#[test]
fn numbers_are_rounded_but_never_to_perfection() {
    assert_eq!([millis(0), millis(1_250_000), millis(49_999)], ["0.0", "1.3", "0.0"]);
    assert_eq!([0, 1, 50, 999_999, 1_000_000].map(percent), ["0.00", "0.01", "0.01", "99.99", "100.00"]);
}

/// Finagle's authors had about 95 % with round robin, 99 % with least loaded, 99.9 % with peak EWMA, within 1 s.
#[test]
fn finagles_comparison_is_reproduced_in_kind() {
    let scenario = scenarios::all().pop().expect("it is the last one");
    assert_eq!(scenario.slug, "finagle");
    let success = |name: &str| {
        let setup = policies::all().into_iter().find(|setup| setup.name == name).expect("it is there");
        scenario.play(&setup).success
    };
    let round_robin = success("round robin, no breaker");
    let least_loaded = success("p2c, Finagle's least loaded, no breaker");
    let finagles = success("p2c, Finagle's EWMA, no breaker");
    let ours = success("p2c, peak EWMA, no breaker");
    assert!((940_000..965_000).contains(&round_robin), "{round_robin}");
    assert!((985_000..998_000).contains(&least_loaded), "{least_loaded}");
    assert!(finagles >= 998_500 && ours >= 999_000, "{finagles} {ours}");
}
