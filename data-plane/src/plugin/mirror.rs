//! `mirror`: sends copies of requests to another backend, whose answers nobody sees.
//!
//! The request itself waits for nothing of this. Its body is copied as it goes upstream, up to a bound, and when all of it has
//! gone the copy is handed to a task of the worker ([`copies`]), which sends it and throws the answer away.

pub mod copies;

use std::time::Duration;

use self::copies::{Place, RequestCopy};
use super::{
    Flow, PluginRequest, Spec, by_chance,
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    snapshot::{Id, fault::Faults},
    telemetry::metrics::MirrorDrop,
};

pub(super) static SPEC: Spec = Spec {
    name: "mirror",
    summary: "Sends copies of requests to another backend, and throws its answers away.",
    details: "The copy is what goes upstream, after the other plugins: the same method, path, query, `Host` and headers, `X-Forwarded-*` among them. \
It is sent when the request's whole body has gone upstream, once, whatever the number of tries; the request does not wait for it, and nothing \
of it reaches the client. Bodies are copied as they pass. WebSockets are not mirrored, nor are requests that another plugin answers, and trailers are left out.\n\n\
A copy is dropped and counted (`rustygate_mirror_drops`) if the body is larger than `body_bytes_max` (`too_large`), if the worker has `in_flight_max` of \
this plugin already, those whose bodies are still on their way included (`busy`), if the request ended before all of its body had gone (`unfinished`), or if the backend \
gave no whole answer within `timeout` and 1 MiB (`failed`). So a worker has at most `in_flight_max` times `body_bytes_max` bytes of bodies in memory for it. Copies are not \
tried again, and those that are under way when a proxy ends are lost.",
    keys: &[
        Key::required("backend", Kind::Backend, "Where copies go"),
        Key::new("percent", Kind::Percent, "100", "Of the requests, by chance"),
        Key::new(
            "body_bytes_max",
            Kind::Integer { min: 0, max: 16 << 20 },
            "65536",
            "The most bytes of a body that is copied",
        ),
        Key::new(
            "in_flight_max",
            Kind::Integer { min: 1, max: 10_000 },
            "100",
            "The most copies of a worker at a time",
        ),
        Key::new(
            "timeout",
            Kind::Duration { min: 1, max: 60_000 },
            "5s",
            "How long the answer to a copy is waited for",
        ),
    ],
    example: "backend: shadow\npercent: 12.5",
    reasons: &[],
};

#[derive(Debug)]
pub(super) struct Mirror {
    pub backend: Box<str>,
    percent: f64,
    body_bytes_max: usize,
    in_flight_max: usize,
    timeout: Duration,
}

pub(super) fn compile(config: &Config<'_>, _: &mut Faults) -> Mirror {
    let size = |key: &str| config.integer(key).and_then(|number| usize::try_from(number).ok()).unwrap_or_default();
    Mirror {
        backend: config.text("backend").unwrap_or_default().into(),
        percent: config.percent("percent").unwrap_or_default(),
        body_bytes_max: size("body_bytes_max"),
        in_flight_max: size("in_flight_max"),
        timeout: config.duration("timeout").unwrap_or_default(),
    }
}

impl Mirror {
    pub fn on_request(&self, id: Id, request: &mut PluginRequest<'_>) -> Flow {
        if by_chance(self.percent) {
            let copy = self.copy(id, request);
            request.facts.copies.extend(copy);
        }
        Flow::Continue
    }

    /// The request as it will go upstream, without its body.
    fn copy(&self, id: Id, request: &PluginRequest<'_>) -> Option<RequestCopy> {
        let backend = request.named.backend(&self.backend)?;
        let drops = &request.worker.shared.metrics.gauges.mirror_drops;
        if request.body_length.is_some_and(|bytes| bytes > self.body_bytes_max as u64) {
            drops.count(MirrorDrop::TooLarge);
            return None;
        }
        let Some(place) =
            Place::enter(&request.worker.states.own(id, request.now, |_| Default::default()), self.in_flight_max)
        else {
            drops.count(MirrorDrop::Busy);
            return None;
        };
        let target = request.target;
        let rewrite = request.facts.rewrite.as_deref();
        let strip = if request.rule.strip_prefix { request.prefix } else { 0 };
        let path = rewrite.and_then(|rewrite| rewrite.path.as_deref());
        let host = rewrite.and_then(|rewrite| rewrite.host.as_deref()).unwrap_or(&target.host_field);
        let mut fields = request.fields.clone();
        fields.remove("trailer");
        request.tell_identity(host, &mut fields);
        Some(RequestCopy {
            backend: backend.clone(),
            method: request.method.into(),
            path: path.unwrap_or_else(|| target.path.get(strip..).unwrap_or_default()).into(),
            query: request.query().map(Into::into),
            host: Some(host).filter(|host| !host.is_empty()).map(Into::into),
            fields,
            asked_path: target.path.as_str().into(),
            client: request.client,
            body: Vec::new(),
            body_bytes_max: self.body_bytes_max,
            timeout: self.timeout,
            place,
        })
    }
}

#[cfg(test)]
mod tests;
