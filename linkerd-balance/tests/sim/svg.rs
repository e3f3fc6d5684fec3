//! One plot for each scenario: latencies of each policy, and beside them what went wrong.

use std::fmt::Write as _;

use crate::{
    model::{MS, Nanos},
    report::percent,
    rng::ln,
    scenarios::Row,
};

const ROW: usize = 22;
const TOP: usize = 74;
const LABELS: usize = 270;
const LATENCIES: usize = 390;
const GAP: usize = 30;
const BARS: usize = 110;
const WIDTH: usize = LABELS + LATENCIES + 2 * (GAP + BARS + 60);

/// From 1 ms to 1 s, a decade for each third of the width.
fn x(nanos: Nanos) -> f64 {
    let decades = ln(nanos.max(MS) as f64 / MS as f64) / std::f64::consts::LN_10;
    LABELS as f64 + decades.min(3.0) / 3.0 * LATENCIES as f64
}

pub(crate) fn plot(title: &str, rows: &[Row]) -> String {
    let (bottom, height) = (TOP + rows.len() * ROW, TOP + rows.len() * ROW + 44);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{title}: latency, share to bad endpoints and failures of each policy">
<style>
  text {{ font: 12px system-ui, sans-serif; fill: #555; }}
  .title {{ font-size: 15px; font-weight: 600; }}
  .grid {{ stroke: #888; stroke-opacity: .25; }}
  .span {{ stroke: #888; stroke-opacity: .6; stroke-width: 2; }}
  .p50 {{ fill: #2a9d8f; }} .p99 {{ fill: #e9a23b; }} .p999 {{ fill: #d1495b; }} .bar {{ fill: #7d8fc2; }} .failed {{ fill: #d1495b; }}
  @media (prefers-color-scheme: dark) {{ text {{ fill: #bbb; }} }}
</style>
<text class="title" x="10" y="22">{title}</text>"#
    );
    legend(&mut svg);
    axes(&mut svg, bottom);
    for (i, row) in rows.iter().enumerate() {
        line(&mut svg, TOP + i * ROW + ROW / 2, row);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    for (i, name) in ["p50", "p99", "p99.9"].iter().enumerate() {
        let (x, class) = (LABELS + i * 70, name.replace('.', ""));
        let _ = writeln!(
            svg,
            r#"<circle class="{class}" cx="{x}" cy="42" r="5"/><text x="{}" y="46">{name}</text>"#,
            x + 10
        );
    }
}

fn axes(svg: &mut String, bottom: usize) {
    for (i, label) in ["1 ms", "10 ms", "100 ms", "1 s"].iter().enumerate() {
        let x = LABELS + i * LATENCIES / 3;
        let _ = writeln!(svg, r#"<line class="grid" x1="{x}" y1="{}" x2="{x}" y2="{bottom}"/>"#, TOP - 8);
        let _ = writeln!(svg, r#"<text x="{x}" y="{}" text-anchor="middle">{label}</text>"#, bottom + 16);
    }
    let middle = LABELS + LATENCIES / 2;
    let _ = writeln!(svg, r#"<text x="{middle}" y="{}" text-anchor="middle">latency, logarithmic</text>"#, bottom + 34);
    for (i, label) in ["to bad endpoints", "failed"].iter().enumerate() {
        let x = bars(i);
        let _ = writeln!(svg, r#"<line class="grid" x1="{x}" y1="{}" x2="{x}" y2="{bottom}"/>"#, TOP - 8);
        let _ = writeln!(svg, r#"<text x="{x}" y="{}">{label}</text>"#, bottom + 34);
    }
}

/// Where the bars of the first or second kind begin.
const fn bars(i: usize) -> usize {
    LABELS + LATENCIES + GAP + i * (BARS + 60)
}

fn line(svg: &mut String, y: usize, row: &Row) {
    let _ = writeln!(svg, r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#, LABELS - 14, y + 4, row.policy);
    let _ = writeln!(svg, r#"<line class="span" x1="{:.1}" y1="{y}" x2="{:.1}" y2="{y}"/>"#, x(row.p50), x(row.p999));
    for (class, nanos) in [("p999", row.p999), ("p99", row.p99), ("p50", row.p50)] {
        let _ = writeln!(svg, r#"<circle class="{class}" cx="{:.1}" cy="{y}" r="5"/>"#, x(nanos));
    }
    if let Some(to_bad) = row.to_bad {
        bar(svg, "bar", bars(0), y, to_bad);
    }
    bar(svg, "failed", bars(1), y, 1_000_000 - row.success);
}

/// The whole width is a fifth of all requests: more than that is bad beyond measure.
fn bar(svg: &mut String, class: &str, x: usize, y: usize, millionths: u64) {
    let width = (millionths as usize * BARS / 200_000).min(BARS);
    let _ = writeln!(svg, r#"<rect class="{class}" x="{x}" y="{}" width="{width}" height="10"/>"#, y - 5);
    let _ = writeln!(svg, r#"<text x="{}" y="{}">{} %</text>"#, x + width + 5, y + 4, percent(millionths));
}
