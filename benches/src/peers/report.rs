//! What was measured, as people and programs read it.
//!
//! Every number is the median over the rounds; every ratio is taken within a round first.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::{Value, json};

use super::{
    load::Load,
    proxy::Kind,
    run::{Plan, Results, Sample},
};

/// A proxy that used this share of its core could not have served more.
const BUSY: f64 = 0.95;
/// What the rest of the machine may use of a core before it disturbs.
const OTHERS_BUSY_MAX: f64 = 0.15;

/// What RustyGate promises for the small load: (of, relative to, at most).
const TARGETS: [(Kind, Against, f64); 3] = [
    (Kind::RustyGate, Against::BetterOfNginxAndHaproxy, 1.10),
    (Kind::RustyGate, Against::One(Kind::Envoy), 0.35),
    (Kind::RustyGateLog, Against::One(Kind::RustyGate), 1.15),
];

#[derive(Clone, Copy, Debug)]
enum Against {
    BetterOfNginxAndHaproxy,
    One(Kind),
}

impl Against {
    const fn title(self) -> &'static str {
        match self {
            Self::BetterOfNginxAndHaproxy => "the better of nginx and HAProxy",
            Self::One(kind) => kind.title(),
        }
    }
}

/// Where and when it was measured.
#[derive(Clone, Debug)]
pub struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    date: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().map(|output| output.stdout);
        Self {
            processor: processor.map_or("unknown processor", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            date: String::from_utf8(date.unwrap_or_default()).unwrap_or_default().trim().to_owned(),
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { processor, cores, kernel, date } = self;
        format!("{processor}, {cores} cores, Linux {kernel}, {date}")
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

    /// CPU per request of one relative to another, round by round, then the median.
    fn ratio(&self, kind: Kind, load: Load, against: Against) -> Option<f64> {
        let of = |kind| self.samples.get(&(kind, load));
        let base: Vec<f64> = match against {
            Against::One(other) => of(other)?.iter().map(|sample| sample.cpu_us).collect(),
            Against::BetterOfNginxAndHaproxy => (0..self.plan.rounds)
                .filter_map(|round| {
                    let cpu = |kind| of(kind).and_then(|samples| samples.get(round)).map(|sample| sample.cpu_us);
                    cpu(Kind::Nginx).into_iter().chain(cpu(Kind::Haproxy)).min_by(f64::total_cmp)
                })
                .collect(),
        };
        median(of(kind)?.iter().zip(base).map(|(sample, base)| sample.cpu_us / base).collect())
    }

    /// One line for each promise that can be checked.
    fn targets(&self) -> Vec<String> {
        let line = |&(kind, against, most): &(Kind, Against, f64)| {
            let ratio = self.ratio(kind, Load::Small, against)?;
            let verdict = if ratio <= most { "met" } else { "missed" };
            let (title, other) = (kind.title(), against.title());
            Some(format!("{title} / {other}, CPU per small request: {ratio:.2} (target: at most {most:.2}, {verdict})"))
        };
        TARGETS.iter().filter_map(line).collect()
    }

    /// What a reader must know before comparing requests per second.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for &load in &self.plan.loads {
            let limited: Vec<_> = self
                .plan
                .kinds
                .iter()
                .filter(|&&kind| {
                    let busy = |value| self.median(kind, load, value).unwrap_or_default();
                    let proxy = busy(|sample| sample.proxy_busy);
                    proxy < BUSY && proxy < busy(|sample| sample.load_busy)
                })
                .map(|kind| kind.title())
                .collect();
            if !limited.is_empty() {
                let (load, limited) = (load.name(), limited.join("; "));
                notes.push(format!(
                    "{load}: the load side was the bottleneck for {limited}: req/s and latency are its, CPU time is the proxy's own"
                ));
            }
        }
        for (&(kind, load), samples) in &self.samples {
            if let Some(error) = samples.iter().find_map(|sample| sample.first_error.as_ref()) {
                let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
                notes.push(format!("{}: {}: {errors} errors, the first: {error}", load.name(), kind.title()));
            }
        }
        if let Some(others) = median(self.samples.values().flatten().map(|sample| sample.others_busy).collect())
            && others > OTHERS_BUSY_MAX
        {
            notes.push(format!("the machine was not quiet: something else used {others:.2} of a core; measure again"));
        }
        for missing in &self.missing {
            notes.push(format!("{} was skipped: {}", missing.kind.title(), missing.why));
        }
        notes
    }

    /// A table for each load, aligned for a terminal.
    #[must_use]
    pub fn text(&self, machine: &Machine) -> String {
        let mut out = format!("{}\n{}\n", machine.line(), shape(&self.plan));
        for &load in &self.plan.loads {
            let requests = load.requests(self.plan.requests);
            out += &format!("\n{}: {}, {requests} requests\n", load.name(), load.title());
            let mut rows = vec![DETAIL_COLUMNS.map(str::to_owned).to_vec()];
            rows.extend(self.plan.kinds.iter().filter_map(|&kind| self.detail(kind, load)));
            out += &aligned(&rows);
        }
        for line in self.targets().into_iter().chain(self.notes()) {
            out += &format!("\n{line}");
        }
        out + "\n"
    }

    /// The README's tables.
    #[must_use]
    pub fn markdown(&self, machine: &Machine) -> String {
        let mut out = format!("{}. {}\n\n", machine.line(), shape(&self.plan));
        out += "CPU time per request in µs (and relative to the better of nginx and HAProxy):\n\n";
        let mut rows = vec![vec!["proxy".to_owned()]];
        rows[0].extend(self.plan.loads.iter().map(|load| load.title().to_owned()));
        for &kind in &self.plan.kinds {
            let mut row = vec![self.name_and_version(kind)];
            row.extend(self.plan.loads.iter().map(|&load| {
                let cpu =
                    self.median(kind, load, |sample| sample.cpu_us).map_or("-".to_owned(), |us| format!("{us:.1}"));
                match self.ratio(kind, load, Against::BetterOfNginxAndHaproxy) {
                    Some(ratio) => format!("{cpu} ({ratio:.2} ×)"),
                    None => cpu,
                }
            }));
            rows.push(row);
        }
        out += &markdown_table(&rows);
        for &load in &self.plan.loads {
            out += &format!("\n{}:\n\n", load.title());
            let mut rows = vec![DETAIL_COLUMNS.map(str::to_owned).to_vec()];
            rows.extend(self.plan.kinds.iter().filter_map(|&kind| self.detail(kind, load)));
            out += &markdown_table(&rows);
        }
        let lines: Vec<_> = self.targets().into_iter().chain(self.notes()).map(|line| format!("- {line}\n")).collect();
        if lines.is_empty() { out } else { out + "\n" + &lines.concat() }
    }

    /// Everything, every round.
    #[must_use]
    pub fn json(&self, machine: &Machine) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "cpu_us": sample.cpu_us,
                "requests_per_second": sample.requests_per_second,
                "p50_us": sample.p50_us,
                "p99_us": sample.p99_us,
                "memory_bytes": sample.memory_bytes,
                "proxy_busy": sample.proxy_busy,
                "load_busy": sample.load_busy,
                "others_busy": sample.others_busy,
                "errors": sample.errors,
                "first_error": sample.first_error,
            })
        };
        let results: Vec<_> = self
            .samples
            .iter()
            .map(|(&(kind, load), samples)| {
                json!({
                    "proxy": kind.title(),
                    "version": self.versions.get(&kind),
                    "load": load.name(),
                    "requests": load.requests(self.plan.requests),
                    "cpu_us": self.median(kind, load, |sample| sample.cpu_us),
                    "ratio": self.ratio(kind, load, Against::BetterOfNginxAndHaproxy),
                    "rounds": samples.iter().map(sample).collect::<Vec<_>>(),
                })
            })
            .collect();
        let missing: BTreeMap<_, _> = self.missing.iter().map(|missing| (missing.kind.title(), &missing.why)).collect();
        json!({
            "machine": {
                "processor": machine.processor,
                "cores": machine.cores,
                "kernel": machine.kernel,
                "date": machine.date,
            },
            "connections": self.plan.connections,
            "rounds": self.plan.rounds,
            "results": results,
            "missing": missing,
        })
    }

    fn name_and_version(&self, kind: Kind) -> String {
        let version = self.versions.get(&kind).map_or("", String::as_str);
        format!("{} {version}", kind.title()).trim_end().to_owned()
    }

    fn detail(&self, kind: Kind, load: Load) -> Option<Vec<String>> {
        let errors: u64 = self.samples.get(&(kind, load))?.iter().map(|sample| sample.errors).sum();
        let value = |of: fn(&Sample) -> f64| self.median(kind, load, of);
        let ratio = self.ratio(kind, load, Against::BetterOfNginxAndHaproxy);
        Some(vec![
            self.name_and_version(kind),
            format!("{:.1}", value(|sample| sample.cpu_us)?),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{:.0}", value(|sample| sample.requests_per_second)?),
            format!("{:.2}", value(|sample| sample.p50_us)? / 1e3),
            format!("{:.2}", value(|sample| sample.p99_us)? / 1e3),
            format!("{:.1}", value(|sample| sample.memory_bytes as f64)? / f64::from(1 << 20)),
            format!("{:.0} %", value(|sample| sample.proxy_busy)? * 100.0),
            errors.to_string(),
        ])
    }
}

const DETAIL_COLUMNS: [&str; 9] =
    ["proxy", "CPU µs/request", "× best", "req/s", "p50 ms", "p99 ms", "peak MiB", "core used", "errors"];

fn shape(plan: &Plan) -> String {
    let Plan { rounds, connections, proxy_core, load_cores, .. } = plan;
    format!(
        "{rounds} interleaved rounds, median; {connections} connections; one worker on core {proxy_core}, load and upstream on \
         core {load_cores}; \"× best\" is CPU per request relative to the better of nginx and HAProxy in the same round."
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

/// The first column to the left, the others to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ") + "\n"
        })
        .collect()
}

pub(crate) fn markdown_table(rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let Some((head, body)) = rows.split_first() else { return String::new() };
    let rule = format!("|---{}|\n", "|--:".repeat(head.len() - 1));
    line(head) + &rule + &body.iter().map(|row| line(row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(samples: &[(Kind, &[f64])]) -> Results {
        let sample = |&cpu_us: &f64| Sample {
            cpu_us,
            requests_per_second: 1000.0,
            p50_us: 100.0,
            p99_us: 900.0,
            memory_bytes: 3 << 20,
            proxy_busy: 0.5,
            load_busy: 0.99,
            others_busy: 0.5,
            errors: 0,
            first_error: None,
        };
        Results {
            plan: Plan {
                kinds: samples.iter().map(|(kind, _)| *kind).collect(),
                loads: vec![Load::Small],
                rounds: samples[0].1.len(),
                requests: 10,
                connections: 2,
                proxy_core: "0".to_owned(),
                load_cores: "1".to_owned(),
            },
            versions: samples.iter().map(|(kind, _)| (*kind, "1.2".to_owned())).collect(),
            missing: Vec::new(),
            samples: samples
                .iter()
                .map(|(kind, cpu)| ((*kind, Load::Small), cpu.iter().map(sample).collect()))
                .collect(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_against_the_better_peer() {
        // The machine is twice as slow in the second round; the ratio does not see it.
        let results = results(&[
            (Kind::RustyGate, &[11.0, 22.0, 11.0]),
            (Kind::Nginx, &[10.0, 30.0, 12.0]),
            (Kind::Haproxy, &[15.0, 20.0, 10.0]),
        ]);
        let ratio = results.ratio(Kind::RustyGate, Load::Small, Against::BetterOfNginxAndHaproxy).expect("a ratio");
        assert!((ratio - 1.1).abs() < 1e-9, "{ratio}");
        assert!(results.targets()[0].contains("1.10 (target: at most 1.10"), "{:?}", results.targets());
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let results = results(&[(Kind::Relay, &[5.0])]);
        assert_eq!(results.ratio(Kind::Relay, Load::Small, Against::BetterOfNginxAndHaproxy), None);
        assert!(results.targets().is_empty());
        assert!(results.text(&Machine::here()).contains("TCP relay (no HTTP) 1.2"));
    }

    #[test]
    fn a_limited_load_side_and_a_busy_machine_are_told() {
        let notes = results(&[(Kind::Nginx, &[5.0])]).notes();
        assert!(notes[0].starts_with("small: the load side was the bottleneck for nginx"), "{notes:?}");
        assert!(notes[1].contains("something else used 0.50 of a core"), "{notes:?}");
    }

    #[test]
    fn medians_of_even_counts_lie_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn markdown_has_a_rule_under_its_head() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(markdown_table(&rows), "| a | b |\n|---|--:|\n| 1 | 2 |\n");
    }
}
