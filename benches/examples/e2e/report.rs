//! What is measured, in which order, and the tables of it.

use std::{fs, net::SocketAddr, time::Duration};

use super::{
    BoxError, Protocol,
    load::NAMES_NOBODY_HAS,
    process::{Bench, Contestant, Core, Process, has},
    scrape,
};

/// How much of it is to be measured.
pub(super) struct Plan {
    pub(super) rounds: u64,
    pub(super) requests: u64,
    /// How many names that nobody has are asked for.
    pub(super) hosts: u64,
    /// Only what has this word in its name.
    pub(super) only: String,
}

/// One row of the tables.
pub(super) struct Scenario {
    name: &'static str,
    pub(super) protocol: Protocol,
    size: u64,
    rate: u64,
}

/// One run of one scenario.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Microseconds of CPU time for each request.
    cpu: f64,
    p50: u64,
    p99: u64,
    /// KiB.
    rss: u64,
}

const ENDPOINTS: u64 = 4;
pub(super) const CONNECTIONS: u64 = 64;
/// Below the 1024 files that a process may have open by default.
const IDLE: u64 = 800;
pub(super) const RATE: u64 = 2000;
/// How many destinations there are beside the one that is measured.
pub(super) const NAMES: u64 = 900;

/// What is asked where the protocol and the size do not matter.
pub(super) const ONE_KIB: &Scenario = &SCENARIOS[1];

const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "h1, 100 B", protocol: Protocol::Http1, size: 100, rate: 0 },
    Scenario { name: "h1, 1 KiB", protocol: Protocol::Http1, size: 1024, rate: 0 },
    Scenario { name: "h1, 64 KiB", protocol: Protocol::Http1, size: 65536, rate: 0 },
    Scenario { name: "TLS, 1 KiB", protocol: Protocol::Tls, size: 1024, rate: 0 },
    Scenario { name: "h2c, 1 KiB", protocol: Protocol::H2c, size: 1024, rate: 0 },
    Scenario { name: "h1 at 2,000/s", protocol: Protocol::Http1, size: 1024, rate: RATE },
    Scenario { name: "h2c at 2,000/s", protocol: Protocol::H2c, size: 1024, rate: RATE },
];

impl Plan {
    pub(super) fn run(&self, bench: &Bench) -> Result<(), BoxError> {
        if SCENARIOS.iter().any(|scenario| scenario.name.contains(&self.only)) {
            self.speed(bench)?;
        }
        if "memory".contains(&self.only) {
            self.memory(bench)?;
        }
        if "scrape".contains(&self.only) {
            scrape::run(self, bench)?;
        }
        Ok(())
    }

    fn speed(&self, bench: &Bench) -> Result<(), BoxError> {
        println!(
            "| | CPU µs | floor | ratio, median | of rounds | instructions | floor | p50, p99 µs | floor | direct |"
        );
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&self.only)) {
            let mut rounds = Vec::new();
            for round in 0..self.rounds {
                // By turns, so that what goes on beside strikes both.
                let mut order = [Contestant::Ours, Contestant::Floor];
                if round % 2 == 1 {
                    order.reverse();
                }
                let first = self.sample(bench, scenario, order[0])?;
                let second = self.sample(bench, scenario, order[1])?;
                rounds.push(if round % 2 == 1 { (second, first) } else { (first, second) });
            }
            let direct = match scenario.rate {
                0 => String::new(),
                _ => self.sample(bench, scenario, Contestant::Direct)?.latency(),
            };
            let of = |get: &dyn Fn(&(Sample, Sample)) -> f64| median(rounds.iter().map(get).collect());
            let mut ratios: Vec<f64> = rounds.iter().map(|(ours, floor)| ours.cpu / floor.cpu).collect();
            ratios.sort_by(f64::total_cmp);
            let (ours, floor) = (of(&|round| round.0.cpu), of(&|round| round.1.cpu));
            let latency = |pick: fn(&(Sample, Sample)) -> Sample| {
                let p50 = of(&|round| pick(round).p50 as f64);
                format!("{p50:.0}, {:.0}", of(&|round| pick(round).p99 as f64))
            };
            println!(
                "| {} | {ours:.1} | {floor:.1} | {:.2} | {:.2} to {:.2} | {} | {} | {} | {} | {direct} |",
                scenario.name,
                median(ratios.clone()),
                ratios.first().copied().unwrap_or_default(),
                ratios.last().copied().unwrap_or_default(),
                instructions(bench, scenario, Contestant::Ours)?,
                instructions(bench, scenario, Contestant::Floor)?,
                latency(|round| round.0),
                latency(|round| round.1),
            );
        }
        Ok(())
    }

    fn sample(&self, bench: &Bench, scenario: &Scenario, contestant: Contestant) -> Result<Sample, BoxError> {
        let (_endpoints, addrs) = endpoints(bench, scenario.protocol)?;
        let proxy = match contestant {
            Contestant::Direct => None,
            _ => Some(bench.proxy(contestant, scenario.protocol, &addrs, &[])?),
        };
        let to = proxy.as_ref().map_or(addrs[0], |(_, addr)| *addr);
        // Warm first: what is made once is not what a request costs.
        let warm = scenario.load(bench, to, self.requests / 10)?;
        let _ = through(warm)?;
        let mut load = scenario.load(bench, to, self.requests)?;
        load.hear()?;
        let cpu = || proxy.as_ref().map_or(Ok(0), |(process, _)| process.cpu());
        let before = cpu()?;
        load.go_on()?;
        let end = load.hear()?;
        let spent = cpu()? - before;
        let [_, failed, p50, p99, _] = &end[..] else { return Err("no outcome".into()) };
        if failed != "0" {
            return Err(format!("{failed} requests failed: {} by {contestant:?}", scenario.name).into());
        }
        let rss = proxy.as_ref().map_or(Ok(0), |(process, _)| process.rss())?;
        Ok(Sample { cpu: spent as f64 / 1e3 / self.requests as f64, p50: p50.parse()?, p99: p99.parse()?, rss })
    }

    fn memory(&self, bench: &Bench) -> Result<(), BoxError> {
        let scenario = ONE_KIB;
        println!("\n| MiB | at the start | after {} requests | KiB of an idle connection |", self.requests);
        println!("|---|--:|--:|--:|");
        for (name, contestant) in [("linkerd", Contestant::Ours), ("floor", Contestant::Floor)] {
            let after = self.sample(bench, scenario, contestant)?.rss;
            let (_endpoints, addrs) = endpoints(bench, scenario.protocol)?;
            let (proxy, to) = bench.proxy(contestant, scenario.protocol, &addrs, &[])?;
            std::thread::sleep(Duration::from_millis(500));
            let start = proxy.rss()?;
            let mut few = scenario.load_of(bench, to, [0, 0, CONNECTIONS, 0])?;
            few.hear()?;
            let before = proxy.rss()?;
            let mut many = scenario.load_of(bench, to, [0, 0, IDLE, 0])?;
            many.hear()?;
            let each = (proxy.rss()?.saturating_sub(before)) as f64 / IDLE as f64;
            println!("| {name} | {} | {} | {each:.1} |", mib(start), mib(after));
        }
        self.names(bench)
    }

    /// What names cost: a hundred in use, many that were once, and any number that nobody has.
    fn names(&self, bench: &Bench) -> Result<(), BoxError> {
        let scenario = ONE_KIB;
        let (_endpoints, addrs) = endpoints(bench, scenario.protocol)?;
        let begin = || bench.proxy(Contestant::Ours, scenario.protocol, &addrs, &[]);
        let (proxy, to) = begin()?;
        through(scenario.load_of(bench, to, [5 * RATE, RATE, CONNECTIONS, 100])?)?;
        let used = proxy.rss()?;
        println!("\n| | |\n|---|--:|\n| 100 destinations at {RATE} requests a second | {} MiB |", mib(used));
        through(scenario.load_of(bench, to, [NAMES, 0, 1, NAMES])?)?;
        let each = (proxy.rss()?.saturating_sub(used)) as f64 / (NAMES - 100) as f64;
        println!("| each of {} more that were asked for once | {each:.1} KiB |", NAMES - 100);
        let (proxy, to) = begin()?;
        through(scenario.load(bench, to, 100)?)?;
        let before = proxy.rss()?;
        through(scenario.load_of(bench, to, [self.hosts, 0, 8, NAMES_NOBODY_HAS])?)?;
        println!("| {} names that nobody has | {} MiB more |", self.hosts, mib(proxy.rss()?.saturating_sub(before)));
        Ok(())
    }
}

impl Scenario {
    fn load(&self, bench: &Bench, to: SocketAddr, requests: u64) -> Result<Process, BoxError> {
        let connections = if self.protocol == Protocol::H2c { CONNECTIONS / 16 } else { CONNECTIONS };
        self.load_of(bench, to, [requests, self.rate, connections, 0])
    }

    /// `how` is how many requests, at which rate, on how many connections, for how many names.
    pub(super) fn load_of(&self, bench: &Bench, to: SocketAddr, how: [u64; 4]) -> Result<Process, BoxError> {
        let mut args = vec!["load".to_owned(), to.to_string(), self.protocol.name().to_owned(), self.size.to_string()];
        args.extend(how.map(|number| number.to_string()));
        bench.part(Core::Others, &args)
    }
}

impl Sample {
    fn latency(&self) -> String {
        format!("{}, {}", self.p50, self.p99)
    }
}

pub(super) fn endpoints(bench: &Bench, protocol: Protocol) -> Result<(Process, Vec<SocketAddr>), BoxError> {
    let args = ["endpoints".to_owned(), ENDPOINTS.to_string(), protocol.name().to_owned()];
    let mut process = bench.part(Core::Others, &args)?;
    let addrs = process.hear()?.iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?;
    Ok((process, addrs))
}

/// Lets a load run from its beginning to its end.
pub(super) fn through(mut load: Process) -> Result<Vec<String>, BoxError> {
    load.hear()?;
    load.go_on()?;
    load.hear()
}

/// What a request costs in user space, as valgrind counts it: the difference of two numbers of requests.
fn instructions(bench: &Bench, scenario: &Scenario, contestant: Contestant) -> Result<String, BoxError> {
    const TIMES: [u64; 2] = [1000, 4000];
    // At a rate it is the same, and how often the proxy is woken depends on how slow it is.
    if scenario.rate > 0 || !has("valgrind") {
        return Ok(String::new());
    }
    let mut counts = Vec::new();
    for requests in TIMES {
        let out = bench.dir.join("callgrind.out");
        let wrapper = ["valgrind".to_owned(), "--tool=callgrind".to_owned()];
        let file = format!("--callgrind-out-file={}", out.display());
        let (_endpoints, addrs) = endpoints(bench, scenario.protocol)?;
        let (proxy, to) = bench.proxy(contestant, scenario.protocol, &addrs, &[&wrapper[..], &[file]].concat())?;
        through(scenario.load(bench, to, requests)?)?;
        proxy.end()?;
        let text = fs::read_to_string(out)?;
        let summary = text.lines().find_map(|line| line.strip_prefix("summary: ")).ok_or("valgrind counted nothing")?;
        counts.push(summary.trim().parse::<u64>()?);
    }
    Ok((counts[1].saturating_sub(counts[0]) / (TIMES[1] - TIMES[0])).to_string())
}

pub(super) fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
