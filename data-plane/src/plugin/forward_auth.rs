//! `forward_auth`: asks a service about each request before the upstream sees it.
//!
//! What the service says of who asks is told upstreams in headers, and those are the service's alone: whatever the client
//! sent by these names, in any spelling, is gone before anybody is asked, and stays gone whatever the service answers.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{
    Consumer, Facts, Flow, PluginRequest, Reason, Refusal, Spec, caller,
    config::{Config, FIELDS_MAX},
    spec::{Key, Kind},
};
use crate::{
    canonical,
    fields::Fields,
    forward::{alias_begins, alias_is},
    snapshot::fault::{Faults, shown},
    subrequest::{Answer, Subrequest, Terms, ask},
    upstream::Asker,
};

/// The most bytes of an answer's body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Tries beyond the first, within the time that there is.
const RETRIES: u32 = 2;

/// The most bytes of `path`, and of `host`.
const TEXT_BYTES_MAX: usize = 1024;

pub(super) static DENIED: Reason = Reason {
    name: "auth_denied",
    status: 403,
    detail: "the request is not let through",
    when: "The service answers with a 3xx or 4xx, which is the answer that the client gets",
};

pub(super) static UNAVAILABLE: Reason = Reason {
    name: "auth_unavailable",
    status: 503,
    detail: "the gateway cannot find out now whether the request may pass",
    when: "The service gives no answer in time, one that is malformed, or a 5xx, and `on_error` is `closed`",
};

pub(super) static SPEC: Spec = Spec {
    name: "forward_auth",
    summary: "Asks a service about each request, and lets it through if that answers with a 2xx.",
    details: "The service is one of `backends`, with all that those have: balancing, health checks, TLS, limits, the budget of \
retries. It is asked with a GET without a body that has the request's own headers, but for those that are about its body, about \
conditions and ranges, and about its connection; `Authorization` and `Cookie` are among them. Besides it has what any backend is told of \
the client (`X-Forwarded-For`, `-Proto`, `-Host`), and `X-Forwarded-Method`, `X-Forwarded-Uri`, `X-Original-Method` and `X-Original-URL`: \
the path and the query of the request in their canonical form, before a route's prefix is removed or a rewrite changes them. None of these is ever the client's.\n\n\
After a 2xx the request goes on. A 3xx or 4xx goes to the client as it is, with its headers and up to 64 KiB of body: a redirect to a login page, \
a challenge. If its body is larger or breaks off, the client gets status and headers with a body of the gateway's; callers of gRPC get a status of gRPC. \
If there is no answer within `timeout`, or it is a 5xx or malformed, `on_error` decides.\n\n\
Headers in `response_headers`, and those with the consumer, are the service's to say: a client's own, in whatever spelling an upstream may read as the same name, are \
removed from the request and its trailers first, whether or not the answer has them, and so they are when `on_error: open` lets a request pass. \
The service does not get to see them either, but for `Authorization` and `Cookie` (it may answer with another credential) and what `request_headers` has. \
With `consumer_header` the service tells who asks, for `acl`, `rate_limit` and the log.",
    keys: &[
        Key::required("backend", Kind::Backend, "Where the service is"),
        Key::new("path", Kind::Text { max: TEXT_BYTES_MAX }, "/", "Path that it is asked for, maybe with a query"),
        Key::new(
            "host",
            Kind::Text { max: TEXT_BYTES_MAX },
            "",
            "`Host` that it is asked with; without it the host of the endpoint",
        ),
        Key::new("timeout", Kind::Duration { min: 1, max: 60_000 }, "1s", "How long it may take, all tries together"),
        Key::new(
            "on_error",
            Kind::Word(&["closed", "open"]),
            "closed",
            "What becomes of requests that there is no answer about: `closed` refuses them, `open` lets them through",
        ),
        Key::new(
            "request_headers",
            Kind::List(&Kind::AnyFieldName, FIELDS_MAX),
            "all there are",
            "Headers of the request that the service is told",
        ),
        Key::new(
            "response_headers",
            Kind::List(&Kind::FieldName, FIELDS_MAX),
            "none",
            "Headers of a 2xx that go upstream, in the place of the client's own",
        ),
        Key::new("consumer_header", Kind::AnyFieldName, "", "Header of a 2xx that has the consumer's name"),
        Key::new(
            "groups_header",
            Kind::AnyFieldName,
            "",
            "Header of a 2xx that has the consumer's groups, with commas between them",
        ),
    ],
    example: "backend: auth\npath: /verify\nresponse_headers: [Remote-User, Remote-Groups]\nconsumer_header: Remote-User",
    reasons: &[&DENIED, &UNAVAILABLE],
};

#[derive(Debug)]
pub(super) struct ForwardAuth {
    pub backend: Box<str>,
    path: Box<str>,
    query: Option<Box<str>>,
    host: Option<Box<str>>,
    timeout: Duration,
    open: bool,
    /// All without it.
    request_headers: Option<Vec<Box<str>>>,
    response_headers: Vec<Box<str>>,
    consumer_header: Option<Box<str>>,
    groups_header: Option<Box<str>>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> ForwardAuth {
    let (path, query) = path(config, faults);
    let text = |key: &str| config.text(key).map(Box::from);
    if let Some(host) = config.text("host")
        && let Err(refused) = canonical::host(host.as_bytes())
    {
        let message = format_args!("{}: {refused}", shown(host));
        config.fault("host", message, "write it like auth.internal or auth.internal:8080", faults);
    }
    if config.has("groups_header") && !config.has("consumer_header") {
        config.fault("groups_header", "there is no \"consumer_header\"", "say whose groups they are", faults);
    }
    ForwardAuth {
        backend: config.text("backend").unwrap_or_default().into(),
        path,
        query,
        host: text("host"),
        timeout: config.duration("timeout").unwrap_or_default(),
        open: config.word("on_error") == "open",
        request_headers: config.has("request_headers").then(|| config.names("request_headers")),
        response_headers: config.names("response_headers"),
        consumer_header: text("consumer_header"),
        groups_header: text("groups_header"),
    }
}

/// Path and query.
fn path(config: &Config<'_>, faults: &mut Faults) -> (Box<str>, Option<Box<str>>) {
    let text = config.word("path");
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    match canonical::path(path.as_bytes()) {
        Ok(canonical) if canonical == path => {}
        Ok(canonical) => {
            let message = format_args!("{} is not in its canonical form", shown(path));
            config.fault("path", message, &format!("write {}", shown(&canonical)), faults);
        }
        Err(refused) => config.fault("path", format_args!("{}: {refused}", shown(path)), "begin it with /", faults),
    }
    if query.is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')) {
        config.fault("path", "the query is none", "write what is no letter in it like %20", faults);
    }
    (path.into(), query.map(Box::from))
}

impl ForwardAuth {
    pub async fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        let told = self.told(request);
        self.forget(request.fields, request.facts.consumer.is_some());
        let asked = match self.ask(request, &told).await {
            Some(answer) if (200..300).contains(&answer.status) => {
                self.let_through(&answer, request.fields, request.facts)
            }
            Some(answer) if (300..500).contains(&answer.status) => Some(refuse(answer, request.is_call)),
            _ => None,
        };
        if let Some(flow) = asked {
            return flow;
        }
        request.worker.shared.metrics.gauges.forward_auth_errors.fetch_add(1, Relaxed);
        if self.open { Flow::Continue } else { Refusal::new(&UNAVAILABLE).into() }
    }

    /// What comes behind the body says nothing either that is the service's to say.
    pub fn on_trailers(&self, trailers: &mut Fields) {
        self.forget(trailers, false);
    }

    /// Takes away what only the service may say. Who asks may be known from a plugin before.
    fn forget(&self, fields: &mut Fields, is_known: bool) {
        fields.retain(|name, _| !self.is_own(name));
        if self.consumer_header.is_some() && !is_known {
            caller::forget(fields);
        }
    }

    /// Whether a field is the service's to say, in some spelling.
    fn is_own(&self, name: &str) -> bool {
        // What a plugin before may have said of the consumer is not the client's.
        let who = self.consumer_header.iter().chain(&self.groups_header).filter(|own| !caller::is_own(own));
        self.response_headers.iter().chain(who).any(|own| alias_is(name, own))
    }

    /// What the service answers.
    async fn ask(&self, request: &PluginRequest<'_>, fields: &Fields) -> Option<Answer> {
        let backend = request.named.backend(&self.backend)?;
        let asker = Asker { fields: request.fields, path: &request.target.path, client: request.client };
        let subrequest = Subrequest {
            method: "GET",
            path: &self.path,
            query: self.query.as_deref(),
            host: self.host.as_deref(),
            fields,
            body: b"",
        };
        let terms = Terms { time: self.timeout, retries: RETRIES, body_bytes_max: BODY_BYTES_MAX, keeps_body: true };
        match ask(request.worker, backend, asker, &subrequest, terms).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(backend = %backend.name, error = error.reason(), "forward_auth got no answer");
                None
            }
        }
    }

    /// What the service is told: the request's own fields, and then what is the gateway's to say. What is the service's to say
    /// is no news to it, but for a credential that it puts another in the place of.
    fn told(&self, request: &PluginRequest<'_>) -> Fields {
        let mut fields = Fields::new();
        let nobody = request.facts.consumer.is_none();
        let tells = |name: &str| {
            let is_forged = nobody && caller::is_own(name);
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let is_wanted = match &self.request_headers {
                Some(names) => names.iter().any(|wanted| is(wanted)),
                None => !self.is_own(name) || is("authorization") || is("cookie"),
            };
            is_wanted && !is_kept(name) && !is_forged
        };
        for (name, value) in request.fields.iter().filter(|(name, _)| tells(name)) {
            fields.append(name, value);
        }
        let target = request.target;
        request.tell_identity(&target.host_field, &mut fields);
        let mut uri = target.path.clone();
        if let Some(query) = request.query() {
            uri.push('?');
            uri.push_str(query);
        }
        let host = match request.forwarded.host.as_slice() {
            b"" => target.host_field.as_bytes(),
            host => host,
        };
        let url = [request.scheme.as_bytes(), b"://", host, uri.as_bytes()].concat();
        for (name, value) in [
            ("X-Forwarded-Method", request.method.as_bytes()),
            ("X-Forwarded-Uri", uri.as_bytes()),
            ("X-Original-Method", request.method.as_bytes()),
            ("X-Original-URL", &url),
        ] {
            fields.append(name, value);
        }
        fields
    }

    /// The request goes on, with what the service says; `None` if it says of several consumers that they ask.
    fn let_through(&self, answer: &Answer, fields: &mut Fields, facts: &mut Facts) -> Option<Flow> {
        let consumer = match &self.consumer_header {
            Some(header) if facts.consumer.is_none() => self.consumer(header, answer)?,
            _ => None,
        };
        for name in &self.response_headers {
            answer.fields.get_all(name).for_each(|value| fields.append(name, value));
        }
        if let Some(consumer) = consumer {
            caller::is_known(consumer, fields, facts);
        }
        Some(Flow::Continue)
    }

    fn consumer(&self, header: &str, answer: &Answer) -> Option<Option<Consumer>> {
        let Some(name) = caller::field(&answer.fields, header).ok()? else { return Some(None) };
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        let lines = self.groups_header.iter().flat_map(|header| answer.fields.get_all(header));
        let groups = lines.filter_map(|line| std::str::from_utf8(line).ok()).flat_map(|line| line.split(','));
        let groups = groups.map(str::trim).filter(|group| !group.is_empty()).collect();
        Some(Some(Consumer { name: name.into(), groups, by: SPEC.name, ..Consumer::default() }))
    }
}

/// Whether a field of the request is not for the service: it is about the body, which it does not get, about conditions and
/// ranges of what is asked for, about a WebSocket, or would be taken for the gateway's own.
fn is_kept(name: &str) -> bool {
    ["content-", "if-", "sec-websocket-", "x-original-"].iter().any(|prefix| alias_begins(name, prefix))
        || ["range", "trailer", "grpc-timeout"].iter().any(|other| alias_is(name, other))
}

/// The answer goes to the client as it is. Who has said no has said it: where the body is not whole, the gateway's own is in its place.
fn refuse(answer: Answer, is_call: bool) -> Flow {
    let Answer { status, mut fields, body } = answer;
    if is_call {
        // No caller follows a redirect.
        let status = if status < 400 { 401 } else { status };
        return Refusal { status, ..Refusal::new(&DENIED) }.into();
    }
    let is_whole = body.is_some();
    fields.retain(|name, _| {
        !(alias_is(name, "date") || alias_is(name, "trailer")) && (is_whole || !alias_begins(name, "content-"))
    });
    Refusal { status, fields, body: body.map(Box::new), ..Refusal::new(&DENIED) }.into()
}

#[cfg(test)]
mod tests;
