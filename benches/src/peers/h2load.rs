//! The load generator of HTTP/2: h2load of nghttp2, whose report is believed only where it adds up.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    client::{Outcome, quantile_us},
    load::{FIELDS, HOST, Spec},
    process,
};

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The program.
    pub program: &'a Path,
    /// Where it runs, as taskset takes it.
    pub cores: &'a str,
    /// The proxy's listener.
    pub target: SocketAddr,
    /// What to ask.
    pub spec: Spec,
    /// On each connection at once.
    pub streams: u16,
    /// How often, over all connections.
    pub requests: u64,
    /// How many.
    pub connections: u64,
    /// After which whatever is unanswered is an error.
    pub time_max: Duration,
    /// Where it may write.
    pub folder: &'a Path,
}

/// Where it is, if it is installed.
///
/// # Errors
/// What to do about it otherwise.
pub fn find() -> Result<PathBuf, String> {
    process::find_program("H2LOAD", "h2load")
        .ok_or_else(|| "no h2load in PATH, and H2LOAD is not set: install nghttp2-client".to_owned())
}

/// Runs the plan.
///
/// # Errors
/// Only if h2load itself fails: what the proxy does wrong is in the outcome.
pub async fn run(plan: &Plan<'_>) -> anyhow::Result<Outcome> {
    let log = plan.folder.join("h2load.log");
    fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let scheme = if plan.spec.listener.is_tls() { "https" } else { "http" };
    let mut command = tokio::process::Command::new("taskset");
    command.args(["-c", plan.cores]).arg(plan.program);
    command.args(["-n", &plan.requests.to_string(), "-c", &plan.connections.min(plan.requests).to_string()]);
    command.args(["-m", &plan.streams.to_string()]).arg("--log-file").arg(&log);
    command.args(["--npn-list", "h2", "--tls13-ciphers", CIPHER, "--groups", "X25519"]);
    for (name, value) in FIELDS {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    command.arg("--connect-to").arg(plan.target.to_string());
    command.arg(format!("{scheme}://{HOST}{}", plan.spec.answer.path()));
    let running = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let cpu_before = process::children_cpu()?;
    let Ok(output) = tokio::time::timeout(plan.time_max, running).await else {
        let first_error = Some("h2load was not done before the time was up".to_owned());
        return Ok(Outcome { errors: plan.requests, first_error, ..Outcome::default() });
    };
    let output = output.context("cannot start h2load")?;
    ensure!(output.status.success(), "h2load ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("h2load's report is not text")?;
    let report = Report::parse(&text).with_context(|| format!("h2load's report is not understood:\n{text}"))?;
    let log = Log::parse(&fs::read_to_string(&log).context("h2load wrote no log")?)?;
    let cpu = process::children_cpu()?.saturating_sub(cpu_before);
    Ok(outcome(&report, &log, plan.requests, &plan.spec, cpu))
}

/// Of TLS; see [`tls`](super::tls).
const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

/// What h2load prints at its end.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    succeeded: u64,
    failed: u64,
    errored: u64,
    timeout: u64,
    /// 2xx, 3xx, 4xx, 5xx.
    statuses: [u64; 4],
    /// Of all bodies.
    data_bytes: u64,
    /// As it was negotiated: protocol, and version and cipher of TLS. None, if no connection came about.
    protocol: Option<String>,
    tls: Option<(String, String)>,
}

impl Report {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
        let requests = line("requests:").context("no line of requests")?;
        let traffic = line("traffic:").context("no line of traffic")?;
        let data = traffic.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(") data"));
        let statuses = line("status codes:").context("no line of status codes")?;
        Ok(Self {
            succeeded: count(requests, "succeeded")?,
            failed: count(requests, "failed")?,
            errored: count(requests, "errored")?,
            timeout: count(requests, "timeout")?,
            statuses: [
                count(statuses, "2xx")?,
                count(statuses, "3xx")?,
                count(statuses, "4xx")?,
                count(statuses, "5xx")?,
            ],
            data_bytes: data.and_then(|bytes| bytes.parse().ok()).context("no bytes of data")?,
            protocol: line("Application protocol:").map(ToOwned::to_owned),
            tls: line("TLS Protocol:").map(ToOwned::to_owned).zip(line("Cipher:").map(ToOwned::to_owned)),
        })
    }

    /// What is not as it must be.
    fn fault(&self, requests: u64, spec: &Spec) -> Option<String> {
        let Self { succeeded, failed, errored, timeout, statuses, data_bytes, .. } = self;
        if *succeeded != requests || failed + errored + timeout > 0 || *statuses != [requests, 0, 0, 0] {
            let [ok, moved, client, server] = statuses;
            return Some(format!(
                "{succeeded} of {requests} succeeded, {failed} failed, {errored} errored, {timeout} too late; {ok} were \
                 2xx, {moved} 3xx, {client} 4xx, {server} 5xx"
            ));
        }
        let expected = requests * spec.answer.bytes() as u64;
        if *data_bytes != expected {
            return Some(format!("bodies of {data_bytes} bytes instead of {expected}"));
        }
        let protocol = if spec.listener.is_tls() { "h2" } else { "h2c" };
        if self.protocol.as_deref() != Some(protocol) {
            return Some(format!("spoke {:?} instead of {protocol}", self.protocol));
        }
        let tls = spec.listener.is_tls().then_some(("TLSv1.3", CIPHER));
        if self.tls.as_ref().map(|(version, cipher)| (version.as_str(), cipher.as_str())) != tls {
            return Some(format!("spoke {:?} instead of {tls:?}", self.tls));
        }
        None
    }
}

/// "1 started, 2 done" has 2 "done".
fn count(line: &str, what: &str) -> anyhow::Result<u64> {
    line.split(", ")
        .find_map(|part| part.strip_suffix(what)?.strip_suffix(' ')?.parse().ok())
        .with_context(|| format!("no count of {what} in {line:?}"))
}

/// What h2load writes of each request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    /// Of right answers.
    latencies_ns: Vec<u64>,
    /// What is not one, or was none.
    others: u64,
    /// From the first request to the last answer.
    span_us: u64,
}

impl Log {
    /// `START_US STATUS TOOK_US` a line, with tabs between.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut log = Self::default();
        let (mut first, mut last) = (u64::MAX, 0);
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [start, status, took] = fields[..] else { bail!("a line of h2load's log is not understood: {line:?}") };
            if status != "200" {
                log.others += 1;
                continue;
            }
            let (start, took): (u64, u64) = (start.parse()?, took.parse()?);
            log.latencies_ns.push(took * 1000);
            (first, last) = (first.min(start), last.max(start + took));
        }
        log.span_us = last.saturating_sub(first);
        log.latencies_ns.sort_unstable();
        Ok(log)
    }
}

fn outcome(report: &Report, log: &Log, requests: u64, spec: &Spec, cpu: Duration) -> Outcome {
    let completed = log.latencies_ns.len() as u64;
    let fault = report.fault(requests, spec);
    let unlogged = || format!("{completed} of {requests} answers were 200, {} something else", log.others);
    let fault = fault.or_else(|| (completed != requests || log.others > 0).then(unlogged));
    Outcome {
        completed,
        // A fault of them all, as a wrong protocol is, is one at least.
        errors: requests.saturating_sub(completed).max(u64::from(fault.is_some())),
        first_error: fault,
        seconds: log.span_us as f64 / 1e6,
        p50_us: quantile_us(&log.latencies_ns, 0.50),
        p99_us: quantile_us(&log.latencies_ns, 0.99),
        cpu_seconds: cpu.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::load::Load;

    const GOOD: &str = "\
starting benchmark...
spawning thread #0: 2 total client(s). 4 total requests
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2
progress: 100% done

finished in 1.06s, 49299.27 req/s, 11.81MB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.90KB (1950) total, 332B (332) headers (space savings 85.34%), 800B (800) data
                     min         max         mean         sd        +/- sd
time for request:      115us     14.17ms      3.09ms      1.42ms    86.35%
";
    const LOG: &str = "1000000\t200\t500\n1000100\t200\t100\n1000200\t200\t200\n1000300\t200\t400\n";

    fn told(report: &str, log: &str, load: Load) -> Outcome {
        let report = Report::parse(report).expect("a report");
        outcome(&report, &Log::parse(log).expect("a log"), 4, &load.spec(), Duration::from_millis(30))
    }

    #[test]
    fn a_report_that_adds_up_is_believed() {
        let outcome = told(GOOD, LOG, Load::H2);
        assert_eq!((outcome.completed, outcome.errors, outcome.first_error), (4, 0, None));
        assert_eq!((outcome.p50_us, outcome.p99_us), (200.0, 500.0));
        assert!((outcome.seconds - 0.0007).abs() < 1e-9, "{}", outcome.seconds);
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_an_error() {
        for (from, to, says) in [
            ("4 succeeded, 0 failed", "3 succeeded, 1 failed", "3 of 4 succeeded, 1 failed"),
            ("0 errored", "1 errored", "1 errored"),
            ("4 2xx, 0 3xx", "3 2xx, 1 3xx", "1 3xx"),
            ("800B (800) data", "600B (600) data", "600 bytes instead of 800"),
            ("protocol: h2", "protocol: http/1.1", "instead of h2"),
            ("TLSv1.3", "TLSv1.2", "TLSv1.2"),
            ("AES_128", "AES_256", "AES_256"),
        ] {
            let outcome = told(&GOOD.replace(from, to), LOG, Load::H2);
            assert_eq!(outcome.errors, 1, "{to}");
            assert!(outcome.first_error.as_ref().is_some_and(|error| error.contains(says)), "{to}: {outcome:?}");
        }
        assert_eq!(told(GOOD, LOG, Load::H2Kib64).errors, 1, "too small");
        assert_eq!(told(GOOD, LOG, Load::H2c).errors, 1, "not in the clear");
    }

    #[test]
    fn answers_of_another_status_are_no_answers() {
        let outcome = told(GOOD, &LOG.replacen("\t200\t", "\t204\t", 1), Load::H2);
        assert_eq!((outcome.completed, outcome.errors), (3, 1));
        assert!(outcome.first_error.is_some_and(|error| error.starts_with("3 of 4 answers were 200")));
    }

    #[test]
    fn what_is_not_its_report_is_not_read_as_one() {
        assert!(Report::parse("").is_err());
        assert!(Report::parse(&GOOD.replace(" timeout", "")).is_err());
        assert!(Report::parse(&GOOD.replace(" (800) data", "")).is_err());
        assert!(Log::parse("1000\t200\n").is_err());
        assert!(Log::parse("a\t200\t1\n").is_err());
    }

    #[test]
    fn a_closed_port_leaves_nothing_but_errors() {
        let text = "requests: 4 total, 0 started, 0 done, 0 succeeded, 4 failed, 4 errored, 0 timeout\n\
                    status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx\n\
                    traffic: 0B (0) total, 0B (0) headers (space savings 0.00%), 0B (0) data\n";
        let outcome = told(text, "", Load::H2c);
        assert_eq!((outcome.completed, outcome.errors), (0, 4));
    }
}
