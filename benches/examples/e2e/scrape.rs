//! What it does to requests that somebody reads all metrics once a second: where there are two thousand destinations, for a
//! few of which there is load.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{
    BoxError,
    process::{Bench, Contestant},
    report::{CONNECTIONS, ONE_KIB, Plan, RATE, endpoints, median, mib, through},
};

/// Destinations that are known.
const DESTINATIONS: u64 = 2000;
/// Those of them that are asked under load.
const BUSY: u64 = 8;
/// How often in a second all of them are asked at first.
const WARM_RATE: u64 = 500;

/// What is read.
const PAGES: [&str; 3] = ["", "/admin/metrics.json", "/admin/metrics/prometheus"];

/// One round with one of the pages.
struct Sample {
    /// Microseconds.
    percentiles: [f64; 3],
    /// Milliseconds of one scrape, the longest, and of the processor for one.
    scrape: [f64; 3],
    bytes: f64,
}

/// Measures it, and prints the table.
pub(super) fn run(plan: &Plan, bench: &Bench) -> Result<(), BoxError> {
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let bench = Bench { names: DESTINATIONS, admin, ..bench.clone() };
    let (_endpoints, addrs) = endpoints(&bench, ONE_KIB.protocol)?;
    let (proxy, to) = bench.proxy(Contestant::Ours, ONE_KIB.protocol, &addrs, &[])?;
    through(ONE_KIB.load_of(&bench, to, [DESTINATIONS, WARM_RATE, 4, DESTINATIONS])?)?;
    let before = proxy.rss()?;
    let sample = |page: &str| -> Result<Sample, BoxError> {
        let mut load = ONE_KIB.load_of(&bench, to, [plan.requests, RATE, CONNECTIONS, BUSY])?;
        load.hear()?;
        let cpu = proxy.cpu_of("admin")?;
        let times = plan.requests / RATE;
        let scraper =
            (!page.is_empty()).then(|| bench.aside(&["scrape", &admin.to_string(), page, &times.to_string()]));
        let scraper = scraper.transpose()?;
        load.go_on()?;
        let end = load.hear()?;
        let [_, failed, percentiles @ ..] = &end[..] else { return Err("no outcome".into()) };
        if failed != "0" {
            return Err(format!("{failed} requests failed beside {page}").into());
        }
        let said = scraper.map_or(Ok(Vec::new()), |mut scraper| scraper.hear())?;
        let spent = (proxy.cpu_of("admin")? - cpu) as f64 / 1e6 / times as f64;
        let number = |words: &[String], at: usize| words.get(at).map_or(Ok(0.0), |word| word.parse::<f64>());
        Ok(Sample {
            percentiles: [number(percentiles, 0)?, number(percentiles, 1)?, number(percentiles, 2)?],
            scrape: [number(&said, 0)?, number(&said, 1)?, spent],
            bytes: number(&said, 2)?,
        })
    };
    let mut rounds = Vec::new();
    for round in 0..plan.rounds as usize {
        let mut samples = [None, None, None];
        // By turns, so that what goes on beside strikes all.
        for turn in 0..PAGES.len() {
            let page = (round + turn) % PAGES.len();
            samples[page] = Some(sample(PAGES[page])?);
        }
        rounds.push(samples.map(|sample| sample.expect("each page has its turn")));
    }
    println!(
        "\n| {DESTINATIONS} destinations, h1 at {RATE}/s, read at 1 Hz | p50, p99 µs | p99.9 | of rounds | ratio | of rounds | one takes ms | at most | of the processor ms | MiB |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (page, name) in PAGES.iter().enumerate() {
        let of = |get: &dyn Fn(&[Sample; 3]) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(get).collect();
            all.sort_by(f64::total_cmp);
            (median(all.clone()), all.first().copied().unwrap_or_default(), all.last().copied().unwrap_or_default())
        };
        let percentile = |at: usize| of(&|round| round[page].percentiles[at]);
        let (tail, least, most) = percentile(2);
        let (ratio, lowest, highest) = of(&|round| round[page].percentiles[2] / round[0].percentiles[2]);
        let scrape = |at: usize| of(&|round| round[page].scrape[at]);
        println!(
            "| {} | {:.0}, {:.0} | {tail:.0} | {least:.0} to {most:.0} | {ratio:.2} | {lowest:.2} to {highest:.2} | {:.0} | {:.0} | {:.1} | {:.1} |",
            if name.is_empty() { "nobody" } else { name },
            percentile(0).0,
            percentile(1).0,
            scrape(0).0,
            scrape(1).2,
            scrape(2).0,
            of(&|round| round[page].bytes).0 / f64::from(1 << 20),
        );
    }
    println!("\nMemory: {} MiB before the first, {} MiB after the last.", mib(before), mib(proxy.rss()?));
    Ok(())
}

/// The process that reads: the page once a second, so many times. Says what one takes in milliseconds, what the longest took,
/// and how many bytes it had.
pub(super) fn part(args: &[String]) -> Result<(), BoxError> {
    let [_, admin, page, times] = args else { return Err("an address, a page and a number".into()) };
    let (admin, times): (SocketAddr, u32) = (admin.parse()?, times.parse()?);
    let begun = Instant::now();
    let (mut took, mut bytes) = (Vec::new(), 0);
    for n in 0..times {
        let due = begun + Duration::from_secs(1) * n;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let since = Instant::now();
        bytes = read(admin, page)?;
        took.push(since.elapsed().as_secs_f64() * 1e3);
    }
    let most = took.iter().copied().fold(0.0, f64::max);
    println!("{} {most} {bytes}", median(took));
    Ok(())
}

/// Reads the page to its end, keeping nothing of it but its first line.
fn read(admin: SocketAddr, page: &str) -> Result<usize, BoxError> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET {page} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let (mut buf, mut bytes) = (vec![0; 1 << 16], 0);
    loop {
        let read = stream.read(&mut buf)?;
        if bytes == 0 && !buf.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("{page} is refused: {}", String::from_utf8_lossy(&buf[..read.min(100)])).into());
        }
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read;
    }
}
