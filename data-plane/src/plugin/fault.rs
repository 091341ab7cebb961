//! `fault`: makes some requests slow or fail, to see what becomes of it.

use std::time::Duration;

use super::{
    Flow, Reason, Refusal, Spec, by_chance,
    config::Config,
    spec::{Key, Kind},
};
use crate::snapshot::fault::Faults;

const PERCENT: Key = Key::new("percent", Kind::Percent, "100", "Of the requests, by chance");

static DELAY: [Key; 2] =
    [Key::required("time", Kind::Duration { min: 1, max: 60_000 }, "How long a request is held up"), PERCENT];

static ABORT: [Key; 2] =
    [Key::new("status", Kind::Integer { min: 400, max: 599 }, "503", "Status of the answer"), PERCENT];

pub(super) static INJECTED: Reason = Reason {
    name: "fault_injected",
    status: 503,
    detail: "the request fails on purpose",
    when: "`abort` hits the request; the status is the configuration's",
};

pub(super) static SPEC: Spec = Spec {
    name: "fault",
    summary: "Makes some requests slow or fail, to see what becomes of it.",
    details: "A request that is hit by both is held up first. The time that it is held up counts for the route's `total` time.",
    keys: &[
        Key::new("delay", Kind::Object(&DELAY), "", "Holds requests up"),
        Key::new("abort", Kind::Object(&ABORT), "", "Answers requests with an error"),
    ],
    example: "delay: {time: 200ms, percent: 10}\nabort: {status: 503, percent: 1}",
    reasons: &[&INJECTED],
};

#[derive(Debug)]
pub(super) struct Fault {
    delay: Option<(Duration, f64)>,
    abort: Option<(u16, f64)>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Fault {
    if !config.has("delay") && !config.has("abort") {
        config.fault_here("there is neither \"delay\" nor \"abort\"", "give at least one of them", faults);
    }
    let percent = |config: &Config<'_>| config.percent("percent");
    let delay = config.child("delay").and_then(|delay| Some((delay.duration("time")?, percent(&delay)?)));
    let status = |config: &Config<'_>| config.integer("status").and_then(|status| u16::try_from(status).ok());
    let abort = config.child("abort").and_then(|abort| Some((status(&abort)?, percent(&abort)?)));
    Fault { delay, abort }
}

impl Fault {
    /// How long this request is held up, if it is.
    pub fn delay(&self) -> Option<Duration> {
        self.delay.filter(|(_, percent)| by_chance(*percent)).map(|(time, _)| time)
    }

    pub async fn hold_up(&self, time: Duration) -> Flow {
        tokio::time::sleep(time).await;
        self.abort()
    }

    pub fn abort(&self) -> Flow {
        match self.abort.filter(|(_, percent)| by_chance(*percent)) {
            Some((status, _)) => Refusal { status, ..Refusal::new(&INJECTED) }.into(),
            None => Flow::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use crate::plugin::{Flow, rig::Rig, tests::fields_at_fault};

    #[tokio::test(start_paused = true)]
    async fn requests_are_held_up_and_fail_as_often_as_is_said() {
        let begun = Instant::now();
        let mut rig = Rig::new("fault", r#"{"delay": {"time": "3s"}, "abort": {"status": 418}}"#);
        let Some(Flow::Refuse(refusal)) = rig.ask().await else { panic!("it went on") };
        assert_eq!((refusal.reason.name, refusal.status), ("fault_injected", 418));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        let mut never = Rig::new("fault", r#"{"delay": {"time": "3s", "percent": 0}, "abort": {"percent": 0}}"#);
        assert!(never.ask().await.is_none());
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        for (percent, range) in [("50", 350..650), ("0.1", 0..30), ("100", 1000..1001)] {
            let mut some = Rig::new("fault", &format!(r#"{{"abort": {{"percent": {percent}}}}}"#));
            let mut hits = 0;
            for _ in 0..1000 {
                hits += usize::from(some.ask().await.is_some());
            }
            assert!(range.contains(&hits), "{percent}: {hits}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(fields_at_fault("fault", "{}"), ["config"]);
        assert_eq!(fields_at_fault("fault", r#"{"abort": {"status": 200}}"#), ["config.abort.status"]);
        assert_eq!(
            fields_at_fault("fault", r#"{"delay": {"percent": 101}}"#),
            ["config.delay", "config.delay.percent"]
        );
    }
}
