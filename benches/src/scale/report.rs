//! What was measured, for people.

use std::time::Duration;

use super::{Plan, load::Sample, planes::Memory};
use crate::report::{Machine, aligned, markdown_table};

/// From the apply to the acknowledgement, at most.
const ACKNOWLEDGED_MAX: Duration = Duration::from_millis(100);

/// No request may be slower because of a change.
const REQUEST_MAX: Duration = Duration::from_millis(5);

/// How many times as many slow requests as without changes tell that it is the changes.
const BEYOND_NOISE: f64 = 2.0;

/// One change; times since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// When the apply was sent.
    pub sent: Duration,
    /// When the fleet said that the proxy serves it.
    pub acknowledged: Duration,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Results {
    /// What was run.
    pub plan: Plan,
    /// From sending everything to the acknowledgement of it.
    pub first_apply: Duration,
    /// In order.
    pub changes: Vec<Change>,
    /// In no order.
    pub samples: Vec<Sample>,
    /// At the end.
    pub memory: Memory,
}

/// Requests of one sort, their times sorted.
#[derive(Debug)]
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&self, share: f64) -> Duration {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn slow(&self) -> usize {
        self.0.len() - self.0.partition_point(|took| *took <= REQUEST_MAX)
    }

    fn slow_share(&self) -> f64 {
        self.slow() as f64 / self.0.len().max(1) as f64
    }
}

impl Results {
    fn times(&self, through: bool, around: bool) -> Times {
        let of_sort = |sample: &&Sample| sample.through == through && self.is_around(sample) == around;
        let mut times: Vec<_> = self.samples.iter().filter(of_sort).map(|sample| sample.took).collect();
        times.sort_unstable();
        Times(times)
    }

    /// Whether any of its time was around a change.
    fn is_around(&self, sample: &Sample) -> bool {
        let answered = sample.sent + sample.took;
        let until = |change: &Change| change.acknowledged.max(change.sent + self.plan.around());
        self.changes.iter().any(|change| answered >= change.sent && sample.sent <= until(change))
    }

    fn acknowledgements(&self) -> Times {
        let mut times: Vec<_> = self.changes.iter().map(|change| change.acknowledged - change.sent).collect();
        times.sort_unstable();
        Times(times)
    }

    /// Whether requests were slow because of the changes.
    fn verdict(&self) -> String {
        let around = self.times(true, true);
        let noise = self.times(true, false).slow_share().max(self.times(false, true).slow_share());
        let target = "no request slower than 5 ms because of a change";
        match around.slow() {
            0 => format!("{target}: met"),
            slow if around.slow_share() <= noise * BEYOND_NOISE => {
                format!(
                    "{target}: undecided: {slow} were, but as many are without changes or past the proxy; measure on a quieter machine"
                )
            }
            slow => format!("{target}: missed, {slow} were"),
        }
    }

    /// The whole report.
    #[must_use]
    pub fn render(&self, machine: &Machine, markdown: bool) -> String {
        let Plan { routes, changes, rate, connections, .. } = &self.plan;
        let acknowledged = self.acknowledgements();
        let most = acknowledged.quantile(1.0);
        let verdict = if most < ACKNOWLEDGED_MAX { "met" } else { "missed" };
        let lines = [
            format!(
                "all {routes} routes at once, from apply to acknowledgement: {:.2} s",
                self.first_apply.as_secs_f64()
            ),
            format!(
                "one changed route, from apply to acknowledgement, {changes} times: p50 {}, max {} (target: under 100 ms, {verdict})",
                ms(acknowledged.quantile(0.5)),
                ms(most),
            ),
            self.verdict(),
            format!(
                "resident memory at the end: proxy {} MiB, control plane {} MiB",
                self.memory.proxy >> 20,
                self.memory.control_plane >> 20
            ),
        ];
        let mut rows =
            vec![["requests", "count", "p50", "p99", "p99.9", "max", "over 5 ms"].map(str::to_owned).to_vec()];
        for (title, through, around) in [
            ("through the proxy, around changes", true, true),
            ("through the proxy, between changes", true, false),
            ("past the proxy, around changes", false, true),
            ("past the proxy, between changes", false, false),
        ] {
            let times = self.times(through, around);
            let mut row = vec![title.to_owned(), times.0.len().to_string()];
            row.extend([0.5, 0.99, 0.999, 1.0].map(|share| ms(times.quantile(share))));
            row.push(times.slow().to_string());
            rows.push(row);
        }
        let shape = format!(
            "{routes} routes, {rate} requests a second over {connections} connections, one worker; the proxy has core {}, \
             everything else {}. Around a change is until {} ms after it was sent, or until it is acknowledged.",
            self.plan.proxy_core,
            self.plan.load_cores,
            self.plan.around().as_millis()
        );
        let head = format!("{}. {shape}\n\n", machine.line());
        if markdown {
            let lines: String = lines.iter().map(|line| format!("- {line}\n")).collect();
            return format!("{head}{lines}\n{}", markdown_table(&rows));
        }
        format!("{head}{}\n\n{}", lines.join("\n"), aligned(&rows))
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn results(samples: &[(u32, u32, bool)]) -> Results {
        let sample = |&(sent, took, through): &(u32, u32, bool)| Sample { sent: MS * sent, took: MS * took, through };
        Results {
            plan: Plan {
                routes: 10,
                changes: 1,
                interval: MS * 1000,
                rate: 100,
                connections: 4,
                proxy_core: "0".to_owned(),
                load_cores: "1".to_owned(),
            },
            first_apply: MS,
            changes: vec![Change { sent: MS * 1000, acknowledged: MS * 1020 }],
            samples: samples.iter().map(sample).collect(),
            memory: Memory { proxy: 0, control_plane: 0 },
        }
    }

    #[test]
    fn a_request_that_a_change_catches_is_around_it() {
        let results = results(&[(990, 20, true), (990, 5, true), (1400, 1, true), (1501, 1, true)]);
        let around: Vec<_> = results.samples.iter().map(|sample| results.is_around(sample)).collect();
        assert_eq!(around, [true, false, true, false]);
    }

    #[test]
    fn slow_requests_count_only_if_there_are_none_such_without_changes() {
        assert!(results(&[(1100, 4, true), (500, 90, true)]).verdict().ends_with(": met"));
        assert!(results(&[(1100, 9, true), (500, 1, true)]).verdict().ends_with("missed, 1 were"));
        assert!(results(&[(1100, 9, true), (500, 9, true)]).verdict().contains("undecided"));
        assert!(results(&[(1100, 9, true), (1100, 9, false)]).verdict().contains("undecided"));
    }

    #[test]
    fn the_report_tells_the_time_to_the_acknowledgement() {
        let text = results(&[(1100, 1, true)]).render(&Machine::here(), false);
        assert!(text.contains("1 times: p50 20.00 ms, max 20.00 ms (target: under 100 ms, met)"), "{text}");
    }
}
