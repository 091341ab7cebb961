//! What follows a change: the diff, the revision, and the wait until every proxy serves it.

use std::{fmt::Write as _, time::Duration};

use rustygate_control_plane::report;
use rustygate_proto::v1::{self as wire, wait_response::Outcome};
use tokio::time::Instant;

use crate::{
    client::Client,
    diff, expiry,
    failure::{Exit, Failure},
    output::{Paint, Screen, ago, count, escape, faults_json, unix_ms_now},
};

/// Resources whose lines `apply` prints; a first apply of thousands is not read on a screen.
const RESOURCES_SHOWN_MAX: usize = 50;

/// How a change was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// Nothing was changed.
    pub(crate) dry_run: bool,
    /// How long to wait for the proxies.
    pub(crate) wait: Option<Duration>,
    /// Whether JSON is wanted.
    pub(crate) json: bool,
}

/// Shows what a change did, and waits if asked to.
pub(crate) async fn finish(
    screen: Screen,
    client: &Client,
    response: wire::ApplyResponse,
    made: &Made,
) -> Result<Exit, Failure> {
    if !response.faults.is_empty() {
        if made.json {
            screen.json(&json(&response, made, None))?;
        }
        screen.faults(&response.faults);
        return Err(Failure::new("nothing was changed"));
    }
    if !made.json {
        screen.data(&diff::render(&response.diff, RESOURCES_SHOWN_MAX, screen.paint))?;
        screen.data(&format!("{}\n", summary(&response, made.dry_run)))?;
    }
    warn_of_ends(screen, &response.diff);
    let waited = match made.wait {
        Some(time) => Some(wait(client, response.revision, time).await?),
        None => None,
    };
    if made.json {
        screen.json(&json(&response, made, waited.as_ref()))?;
    }
    let Some(waited) = waited else { return Ok(Exit::Success) };
    show(screen, &waited, response.revision, made.json)
}

/// Warns of certificates that a change brings and that end soon.
pub(crate) fn warn_of_ends(screen: Screen, diff: &[wire::ResourceDiff]) {
    let brought = diff.iter().filter_map(|resource| resource.after.as_ref());
    for warning in expiry::warnings(brought, unix_ms_now()) {
        screen.warn(&warning);
    }
}

/// What came of a wait.
#[derive(Debug)]
pub(crate) struct Waited {
    /// The answer.
    pub(crate) response: wire::WaitResponse,
    /// How long it took.
    pub(crate) time: Duration,
}

/// Waits until every connected proxy serves a revision.
pub(crate) async fn wait(client: &Client, revision: u64, time: Duration) -> Result<Waited, Failure> {
    let start = Instant::now();
    let response = client.wait(revision, time).await?;
    Ok(Waited { response, time: start.elapsed() })
}

/// One line: what the revision is, and what it changed.
pub(crate) fn summary(response: &wire::ApplyResponse, dry_run: bool) -> String {
    let revision = response.revision;
    match (response.diff.is_empty(), dry_run) {
        (true, _) => format!("revision {revision}: nothing differs"),
        (false, true) => format!("dry run against revision {revision}: {}", diff::tally(&response.diff)),
        (false, false) => format!("revision {revision}: {}", diff::tally(&response.diff)),
    }
}

fn show(screen: Screen, waited: &Waited, revision: u64, quiet: bool) -> Result<Exit, Failure> {
    let proxies = &waited.response.proxies;
    match waited.response.outcome() {
        Outcome::Serving => {
            if proxies.is_empty() {
                screen.warn("no proxy is connected, so none serves it yet");
            } else if !quiet {
                let time = waited.time.as_millis();
                screen.data(&format!("serving on {} after {time} ms\n", count(proxies.len(), "proxy")))?;
            }
            Ok(Exit::Success)
        }
        Outcome::Refused => {
            screen.note(&refusals(proxies, revision, screen.note_paint));
            screen.note(&format!(
                "{} it keeps what it served before; apply a correction, or `gatectl rollback` to an earlier revision",
                screen.note_paint.bold("hint:")
            ));
            Ok(Exit::Refused)
        }
        Outcome::TimedOut | Outcome::Unspecified => {
            screen.note(&laggards(proxies, revision, waited.time, unix_ms_now(), screen.note_paint));
            screen.note(&format!("{} `gatectl status` shows each proxy", screen.note_paint.bold("hint:")));
            Ok(Exit::TimedOut)
        }
    }
}

/// Who refused a revision, and why.
pub(crate) fn refusals(proxies: &[wire::Proxy], revision: u64, paint: Paint) -> String {
    let mut text = String::new();
    for proxy in proxies.iter().filter(|proxy| proxy.refused_revision >= revision) {
        let who = escape(&proxy.node_id);
        let refused = proxy.refused_revision;
        let _ = writeln!(text, "{} proxy {who} refused revision {refused}:", paint.red("error:"));
        let _ = writeln!(text, "{}", report::render(&proxy.faults, paint.on).trim_end());
    }
    text
}

fn laggards(proxies: &[wire::Proxy], revision: u64, time: Duration, now_ms: u64, paint: Paint) -> String {
    let mut text = String::new();
    for proxy in proxies.iter().filter(|proxy| proxy.revision < revision) {
        let _ = writeln!(
            text,
            "{} proxy {} still serves revision {} after {} ms; it was last heard of {}",
            paint.red("error:"),
            escape(&proxy.node_id),
            proxy.revision,
            time.as_millis(),
            ago(now_ms, proxy.last_seen_unix_ms),
        );
    }
    if text.is_empty() {
        let _ = writeln!(text, "{} not every proxy served it after {} ms", paint.red("error:"), time.as_millis());
    }
    text
}

fn json(response: &wire::ApplyResponse, made: &Made, waited: Option<&Waited>) -> serde_json::Value {
    let waited = waited.map(|waited| {
        let outcome = match waited.response.outcome() {
            Outcome::Serving => "serving",
            Outcome::Refused => "refused",
            Outcome::TimedOut | Outcome::Unspecified => "timed_out",
        };
        let proxies: serde_json::Value = waited.response.proxies.iter().map(super::status::proxy_json).collect();
        serde_json::json!({
            "outcome": outcome,
            "ms": u64::try_from(waited.time.as_millis()).unwrap_or(u64::MAX),
            "proxies": proxies,
        })
    });
    serde_json::json!({
        "revision": response.revision,
        "changed": response.changed,
        "dry_run": made.dry_run,
        "diff": diff::json(&response.diff),
        "faults": faults_json(&response.faults),
        "wait": waited,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { on: false };

    #[test]
    fn those_who_lag_are_named_with_what_they_serve() {
        let proxy = |node_id: &str, revision| wire::Proxy {
            node_id: node_id.to_owned(),
            revision,
            last_seen_unix_ms: 6_000,
            ..wire::Proxy::default()
        };
        let text = laggards(&[proxy("a", 4), proxy("b", 5)], 5, Duration::from_millis(250), 9_500, PLAIN);
        insta::assert_snapshot!(text, @"error: proxy a still serves revision 4 after 250 ms; it was last heard of 3s ago");
    }

    #[test]
    fn only_refusals_of_this_revision_or_a_later_one_are_shown() {
        let proxy = |node_id: &str, refused_revision| wire::Proxy {
            node_id: node_id.to_owned(),
            refused_revision,
            ..wire::Proxy::default()
        };
        let text = refusals(&[proxy("a", 3), proxy("b", 5)], 5, PLAIN);
        assert!(text.starts_with("error: proxy b refused revision 5:\n") && !text.contains("proxy a"), "{text}");
    }

    #[test]
    fn the_summary_says_whether_anything_was_changed() {
        let diff = vec![wire::ResourceDiff { after: Some(wire::Resource::default()), ..wire::ResourceDiff::default() }];
        let response = wire::ApplyResponse { revision: 7, diff, ..wire::ApplyResponse::default() };
        assert_eq!(summary(&response, false), "revision 7: 1 created, 0 updated, 0 deleted");
        assert_eq!(summary(&response, true), "dry run against revision 7: 1 created, 0 updated, 0 deleted");
        let nothing = wire::ApplyResponse { revision: 7, ..wire::ApplyResponse::default() };
        assert_eq!(summary(&nothing, false), "revision 7: nothing differs");
    }
}
