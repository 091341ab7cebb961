//! What was measured, as people and programs read it.
//!
//! Every number is the median over the rounds; every ratio is taken within a round first.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    load::Load,
    proxy::Kind,
    run::{Plan, Results, Sample, Traffic},
};
use crate::report::{Machine, aligned, markdown_table};

/// A proxy that used this share of its core could not have served more.
const BUSY: f64 = 0.95;
/// What the rest of the machine may use of a core before it disturbs.
const OTHERS_BUSY_MAX: f64 = 0.15;

/// What RustyGate promises: (under, of, relative to, at most).
const TARGETS: [(Load, Kind, Against, f64); 19] = [
    (Load::Small, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.10),
    (Load::Small, Kind::RustyGate, Against::One(Kind::Envoy), 0.35),
    (Load::Small, Kind::RustyGateLog, Against::One(Kind::RustyGate), 1.15),
    (Load::Kib64, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::Mib1, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2c, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2cKib64, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2cMib1, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2Kib64, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::H2Mib1, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::Tls, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::TlsKib64, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::TlsMib1, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.0),
    (Load::TlsConnect, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.1),
    (Load::TlsResume, Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.1),
    (Load::Plugins, Kind::RustyGate, Against::Small, 1.25),
    (Load::Idle, Kind::RustyGate, Against::One(Kind::Nginx), 2.0),
    (Load::IdleTls, Kind::RustyGate, Against::One(Kind::Nginx), 2.0),
];

#[derive(Clone, Copy, Debug)]
enum Against {
    BetterOfNginxAndHaproxy,
    One(Kind),
    /// The same proxy under the small load.
    Small,
}

impl Against {
    /// What the tables compare with.
    const fn usual(load: Load) -> Self {
        match load {
            Load::Idle | Load::IdleTls => Self::One(Kind::Nginx),
            Load::Jwt => Self::One(Kind::Envoy),
            Load::Plugins => Self::Small,
            _ => Self::BetterOfNginxAndHaproxy,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::BetterOfNginxAndHaproxy => "the better of nginx and HAProxy",
            Self::One(kind) => kind.title(),
            Self::Small => "itself without plugins",
        }
    }
}

impl Results {
    /// Requests without a right answer, over everything.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.samples.values().flatten().map(|sample| sample.errors).sum()
    }

    fn median(&self, kind: Kind, load: Load, value: fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.get(&(kind, load))?.iter().map(value).collect())
    }

    fn median_of_traffic(&self, kind: Kind, load: Load, value: fn(&Traffic) -> f64) -> Option<f64> {
        let samples = self.samples.get(&(kind, load))?;
        median(samples.iter().filter_map(|sample| sample.traffic.as_ref()).map(value).collect())
    }

    /// The cost of one relative to another's, round by round, then the median.
    fn ratio(&self, kind: Kind, load: Load, against: Against) -> Option<f64> {
        let of = |kind, load, round: usize| Some(self.samples.get(&(kind, load))?.get(round)?.cost);
        let cost = |kind, round| of(kind, load, round);
        let ratio = |(round, sample): (usize, &Sample)| {
            let base = match against {
                Against::One(other) => cost(other, round),
                Against::Small => of(kind, Load::Small, round),
                Against::BetterOfNginxAndHaproxy => {
                    [Kind::Nginx, Kind::Haproxy].into_iter().filter_map(|kind| cost(kind, round)).min_by(f64::total_cmp)
                }
            };
            Some(sample.cost / base?)
        };
        median(self.samples.get(&(kind, load))?.iter().enumerate().filter_map(ratio).collect())
    }

    /// One line for each promise that can be checked.
    fn targets(&self) -> Vec<String> {
        let line = |&(load, kind, against, most): &(Load, Kind, Against, f64)| {
            let ratio = self.ratio(kind, load, against)?;
            let verdict = if ratio <= most { "met" } else { "missed" };
            let (load, title, other) = (load.spec().name, kind.title(), against.title());
            Some(format!("{load}: {title} / {other}: {ratio:.2} (target: at most {most:.2}, {verdict})"))
        };
        TARGETS.iter().filter_map(line).collect()
    }

    fn is_load_limited(&self, kind: Kind, load: Load) -> bool {
        let busy = |value| self.median_of_traffic(kind, load, value).unwrap_or_default();
        let proxy = busy(|traffic| traffic.proxy_busy);
        proxy < BUSY && proxy < busy(|traffic| traffic.load_busy)
    }

    /// What a reader must know before comparing requests per second.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.samples.keys().any(|&(kind, load)| self.is_load_limited(kind, load)) {
            notes.push(
                "req/s with a * and latencies beside them are those of the load side, the bottleneck there; CPU time is the proxy's own".to_owned(),
            );
        }
        for (&(kind, load), samples) in &self.samples {
            if let Some(error) = samples.iter().find_map(|sample| sample.first_error.as_ref()) {
                let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
                notes.push(format!("{}: {}: {errors} errors, the first: {error}", load.spec().name, kind.title()));
            }
        }
        let traffic = self.samples.values().flatten().filter_map(|sample| sample.traffic.as_ref());
        if let Some(others) = median(traffic.map(|traffic| traffic.others_busy).collect())
            && others > OTHERS_BUSY_MAX
        {
            notes.push(format!("the machine was not quiet: something else used {others:.2} of a core; measure again"));
        }
        for missing in &self.missing {
            notes.push(format!("{} was skipped: {}", missing.what, missing.why));
        }
        notes
    }

    /// A table for each load, aligned for a terminal.
    #[must_use]
    pub fn text(&self, machine: &Machine) -> String {
        let mut out = format!("{}\n{}\n", machine.line(), shape(&self.plan));
        for &load in &self.plan.loads {
            out += &format!("\n{}: {}\n", load.spec().name, self.amount(load));
            out += &aligned(&self.details(load));
        }
        for line in self.targets().into_iter().chain(self.notes()) {
            out += &format!("\n{line}");
        }
        out + "\n"
    }

    /// The README's part: a table of everything, what is promised, and the rest folded away.
    #[must_use]
    pub fn markdown(&self, machine: &Machine) -> String {
        let mut out = format!("{}. {}\n\n", machine.line(), shape(&self.plan));
        out += "CPU time per request in µs; memory per idle connection in KiB (and relative to the better of nginx and HAProxy; \
                of idle connections, to nginx; of JWT, to Envoy; of all plugins, to the same without them):\n\n";
        let mut rows = vec![vec!["load".to_owned()]];
        rows[0].extend(self.plan.kinds.iter().map(|&kind| self.name_and_version(kind)));
        for &load in &self.plan.loads {
            let mut row = vec![load.spec().title.to_owned()];
            row.extend(self.plan.kinds.iter().map(|&kind| self.cell(kind, load)));
            rows.push(row);
        }
        out += &markdown_table(&rows);
        let lines: Vec<_> = self.targets().into_iter().chain(self.notes()).map(|line| format!("- {line}\n")).collect();
        out += &format!("\n{}\n<details>\n<summary>Requests per second, latency, memory</summary>\n", lines.concat());
        for &load in &self.plan.loads {
            out += &format!("\n`{}`: {}\n\n", load.spec().name, self.amount(load));
            out += &markdown_table(&self.details(load));
        }
        out + "\n</details>\n"
    }

    /// Everything, every round.
    #[must_use]
    pub fn json(&self, machine: &Machine) -> Value {
        let traffic = |traffic: Traffic| {
            json!({
                "requests_per_second": traffic.requests_per_second,
                "p50_us": traffic.p50_us,
                "p99_us": traffic.p99_us,
                "proxy_busy": traffic.proxy_busy,
                "load_busy": traffic.load_busy,
                "others_busy": traffic.others_busy,
            })
        };
        let sample = |sample: &Sample| {
            json!({
                "cost": sample.cost,
                "memory_bytes": sample.memory_bytes,
                "errors": sample.errors,
                "first_error": sample.first_error,
                "traffic": sample.traffic.map(traffic),
            })
        };
        let results: Vec<_> = self
            .samples
            .iter()
            .map(|(&(kind, load), samples)| {
                json!({
                    "proxy": kind.title(),
                    "version": self.versions.get(&kind),
                    "load": load.spec().name,
                    "requests": if load.is_idle() { self.plan.idle_connections as u64 } else { load.requests(self.plan.requests) },
                    "unit": if load.is_idle() { "KiB/connection" } else { "us/request" },
                    "cost": self.median(kind, load, |sample| sample.cost),
                    "ratio": self.ratio(kind, load, Against::usual(load)),
                    "rounds": samples.iter().map(sample).collect::<Vec<_>>(),
                })
            })
            .collect();
        let missing: BTreeMap<_, _> = self.missing.iter().map(|missing| (missing.what, &missing.why)).collect();
        json!({
            "machine": machine,
            "connections": self.plan.connections,
            "idle_connections": self.plan.idle_connections,
            "rounds": self.plan.rounds,
            "results": results,
            "targets": self.targets(),
            "missing": missing,
        })
    }

    fn name_and_version(&self, kind: Kind) -> String {
        let version = self.versions.get(&kind).map_or("", String::as_str);
        let (name, rest) = kind.title().split_at(kind.title().find(',').unwrap_or(kind.title().len()));
        format!("{name} {version}").trim_end().to_owned() + rest
    }

    fn cell(&self, kind: Kind, load: Load) -> String {
        let Some(cost) = self.median(kind, load, |sample| sample.cost) else { return "-".to_owned() };
        match self.ratio(kind, load, Against::usual(load)) {
            Some(ratio) => format!("{cost:.1} ({ratio:.2} ×)"),
            None => format!("{cost:.1}"),
        }
    }

    fn amount(&self, load: Load) -> String {
        let (title, plan) = (load.spec().title, &self.plan);
        if load.is_idle() {
            return format!("{title}; {} of them", plan.idle_connections);
        }
        format!("{title}; {} requests", load.requests(plan.requests))
    }

    fn details(&self, load: Load) -> Vec<Vec<String>> {
        let columns: &[&str] = if load.is_idle() { &IDLE_COLUMNS } else { &COLUMNS };
        let mut rows = vec![columns.iter().map(|&column| column.to_owned()).collect()];
        rows.extend(self.plan.kinds.iter().filter_map(|&kind| self.detail(kind, load)));
        rows
    }

    fn detail(&self, kind: Kind, load: Load) -> Option<Vec<String>> {
        let errors: u64 = self.samples.get(&(kind, load))?.iter().map(|sample| sample.errors).sum();
        let ratio = self.ratio(kind, load, Against::usual(load));
        let memory = self.median(kind, load, |sample| sample.memory_bytes as f64)?;
        let mut cells = vec![
            self.name_and_version(kind),
            format!("{:.1}", self.median(kind, load, |sample| sample.cost)?),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{:.1}", memory / f64::from(1 << 20)),
            errors.to_string(),
        ];
        if !load.is_idle() {
            let limited = if self.is_load_limited(kind, load) { "*" } else { "" };
            let value = |of: fn(&Traffic) -> f64| self.median_of_traffic(kind, load, of);
            cells.extend([
                format!("{:.0}{limited}", value(|traffic| traffic.requests_per_second)?),
                format!("{:.2}", value(|traffic| traffic.p50_us)? / 1e3),
                format!("{:.2}", value(|traffic| traffic.p99_us)? / 1e3),
                format!("{:.0} %", value(|traffic| traffic.proxy_busy)? * 100.0),
            ]);
        }
        Some(cells)
    }
}

const COLUMNS: [&str; 9] =
    ["proxy", "CPU µs/request", "× best", "peak MiB", "errors", "req/s", "p50 ms", "p99 ms", "core used"];
const IDLE_COLUMNS: [&str; 5] = ["proxy", "KiB/connection", "× nginx", "MiB in all", "errors"];

fn shape(plan: &Plan) -> String {
    let Plan { rounds, connections, proxy_core, load_cores, .. } = plan;
    let of_h2 = (connections / 4).max(1);
    format!(
        "{rounds} interleaved rounds, median; {connections} connections ({of_h2} of HTTP/2, of up to 10 streams); one worker on \
         core {proxy_core}, load and upstream on core {load_cores}; TLS 1.3 with a P-256 key; \"× best\" is CPU per request \
         relative to the better of nginx and HAProxy in the same round."
    )
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(load: Load, samples: &[(Kind, &[f64])]) -> Results {
        let traffic = Traffic {
            requests_per_second: 1000.0,
            p50_us: 100.0,
            p99_us: 900.0,
            proxy_busy: 0.5,
            load_busy: 0.99,
            others_busy: 0.5,
        };
        let sample = |&cost: &f64| Sample {
            cost,
            memory_bytes: 3 << 20,
            errors: 0,
            first_error: None,
            traffic: (!load.is_idle()).then_some(traffic),
        };
        Results {
            plan: Plan {
                kinds: samples.iter().map(|(kind, _)| *kind).collect(),
                loads: vec![load],
                rounds: samples[0].1.len(),
                requests: 10,
                connections: 2,
                idle_connections: 10,
                proxy_core: "0".to_owned(),
                load_cores: "1".to_owned(),
            },
            versions: samples.iter().map(|(kind, _)| (*kind, "1.2".to_owned())).collect(),
            missing: Vec::new(),
            samples: samples.iter().map(|(kind, costs)| ((*kind, load), costs.iter().map(sample).collect())).collect(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_against_the_better_peer() {
        // The machine is twice as slow in the second round; the ratio does not see it.
        let results = results(
            Load::Small,
            &[
                (Kind::RustyGate, &[11.0, 22.0, 11.0]),
                (Kind::Nginx, &[10.0, 30.0, 12.0]),
                (Kind::Haproxy, &[15.0, 20.0, 10.0]),
            ],
        );
        let ratio = results.ratio(Kind::RustyGate, Load::Small, Against::BetterOfNginxAndHaproxy).expect("a ratio");
        assert!((ratio - 1.1).abs() < 1e-9, "{ratio}");
        assert!(results.targets()[0].contains("1.10 (target: at most 1.10"), "{:?}", results.targets());
    }

    #[test]
    fn memory_is_compared_with_nginx_and_a_target_names_its_load() {
        let costs: [(Kind, &[f64]); 3] = [(Kind::RustyGate, &[9.0]), (Kind::Nginx, &[4.0]), (Kind::Haproxy, &[2.0])];
        let results = results(Load::Idle, &costs);
        assert_eq!(results.targets(), ["idle: RustyGate / nginx: 2.25 (target: at most 2.00, missed)"]);
        let markdown = results.markdown(&Machine::here());
        assert!(
            markdown.contains("| idle connection, KiB | 9.0 (2.25 ×) | 4.0 (1.00 ×) | 2.0 (0.50 ×) |"),
            "{markdown}"
        );
        assert!(markdown.contains("| RustyGate 1.2 | 9.0 | 2.25 | 3.0 | 0 |"), "{markdown}");
    }

    #[test]
    fn a_load_that_a_proxy_does_not_run_leaves_its_cell_empty() {
        let mut results = results(Load::H2, &[(Kind::Nginx, &[4.0]), (Kind::Relay, &[1.0])]);
        results.samples.remove(&(Kind::Relay, Load::H2));
        let markdown = results.markdown(&Machine::here());
        assert!(markdown.contains("| h2 over TLS, 200 B | 4.0 (1.00 ×) | - |"), "{markdown}");
        assert!(!markdown.contains("\n| TCP relay"), "it has no line among the details: {markdown}");
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let results = results(Load::Small, &[(Kind::Relay, &[5.0])]);
        assert_eq!(results.ratio(Kind::Relay, Load::Small, Against::BetterOfNginxAndHaproxy), None);
        assert!(results.targets().is_empty());
        assert!(results.text(&Machine::here()).contains("TCP relay (no HTTP) 1.2"));
    }

    #[test]
    fn a_limited_load_side_and_a_busy_machine_are_told() {
        let results = results(Load::Small, &[(Kind::Nginx, &[5.0])]);
        let notes = results.notes();
        assert!(notes[0].starts_with("req/s with a * "), "{notes:?}");
        assert!(results.markdown(&Machine::here()).contains("| 1000* |"));
        assert!(notes[1].contains("something else used 0.50 of a core"), "{notes:?}");
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
