//! Answers that the gateway makes by itself, and what they leave of the request's body.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{After, Exchange, Record};
use crate::{
    body::{Sink, Source},
    client::Client,
    error::{PROBLEM_JSON, ProxyError},
    fields::Fields,
    forward::Reply,
    grpc,
    http1::{Framing, Version, body::Piece, head::RequestHead},
    plugin::{Flow, LocalResponse, Plugin, PluginResponse},
    snapshot::Rule,
    websocket,
};

/// The most of a body that is read and thrown away to keep a connection.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// Whether a request is a call of gRPC, which there is over HTTP/2 only: anybody else reads the status of HTTP.
pub fn is_call(request: &RequestHead) -> bool {
    request.version == Version::Http2 && grpc::is_call(&request.fields)
}

/// Answers with what a plugin says.
pub async fn plugin(x: &mut Exchange<'_, '_>, record: &mut Record, rule: &Rule, plugin: &Plugin, flow: Flow) -> After {
    record.plugin = Some(plugin.name.clone());
    match flow {
        Flow::Continue => After::Abort,
        Flow::Respond(answer) => {
            x.worker.count_answer(plugin, None);
            local(x, record, Some(rule), *answer).await
        }
        Flow::Refuse(refusal) => {
            x.worker.count_answer(plugin, Some(refusal.reason));
            record.reason = refusal.reason.name;
            let error = ProxyError::Refused { reason: refusal.reason, status: refusal.status };
            if let Some(body) = refusal.body.filter(|_| !is_call(x.request)) {
                let answer = LocalResponse { status: refusal.status, fields: refusal.fields, body: *body };
                return local(x, record, Some(rule), answer).await;
            }
            let detail = refusal.detail.unwrap_or_else(|| error.message());
            problem(x, record, Some(rule), error, &detail, refusal.fields).await
        }
    }
}

/// Answers with an error.
pub async fn error(x: &mut Exchange<'_, '_>, record: &mut Record, rule: Option<&Rule>, error: ProxyError) -> After {
    problem(x, record, rule, error, &error.message(), Fields::new()).await
}

/// Tells of an error: in the problem details of RFC 9457, or in a status of gRPC; `fields` go with it.
async fn problem(
    x: &mut Exchange<'_, '_>,
    record: &mut Record,
    rule: Option<&Rule>,
    error: ProxyError,
    detail: &str,
    mut fields: Fields,
) -> After {
    if is_call(x.request) {
        for (name, value) in grpc::trailers_only(grpc::status(error), detail).iter() {
            fields.append(name, value);
        }
        return local(x, record, rule, LocalResponse { status: 200, fields, body: Bytes::new() }).await;
    }
    fields.append("Content-Type", PROBLEM_JSON);
    if error == ProxyError::MethodNotAllowed {
        fields.append("Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    if error == ProxyError::BadWebSocket {
        fields.append("Sec-WebSocket-Version", websocket::VERSION.as_bytes());
    }
    // After these there is no knowing where the next request would begin.
    if matches!(
        error,
        ProxyError::BadHead(_)
            | ProxyError::BadForm
            | ProxyError::BadTarget(_)
            | ProxyError::BadBody(_)
            | ProxyError::BadWebSocket
            | ProxyError::MethodNotAllowed
            | ProxyError::RequestTimeout
            | ProxyError::RequestBodyTimeout
            | ProxyError::RequestBodySlow
    ) {
        x.request.connection.close = true;
    }
    let answer = LocalResponse { status: error.status(), fields, body: error.body(detail).into() };
    local(x, record, rule, answer).await
}

/// Ends an answer of which some was sent. A caller of gRPC is told why, in the trailers; nobody else can be.
pub fn cut(x: &mut Exchange<'_, '_>, record: &Record, error: ProxyError) -> After {
    let is_answer = record.status == 200 && x.response.fields.get("content-type").is_some_and(grpc::is_grpc);
    let takes_nothing = matches!(error, ProxyError::ClientStalled | ProxyError::ClientSlow);
    if is_answer && matches!(x.client.output, Sink::ClientStream(_)) && !takes_nothing {
        let mut trailers = grpc::trailers_only(grpc::status(error), &error.message());
        trailers.remove("content-type");
        if x.client.output.end(Framing::UntilClose, &trailers).is_ok() {
            return After::Close;
        }
    }
    After::Abort
}

/// Answers without an upstream. The plugins of what matched see this answer like any other.
pub async fn local(
    x: &mut Exchange<'_, '_>,
    record: &mut Record,
    rule: Option<&Rule>,
    mut answer: LocalResponse,
) -> After {
    if let Some((rule, chosen)) = rule.zip(record.backend) {
        record.chain(rule).on_response(&mut PluginResponse {
            status: answer.status,
            fields: &mut answer.fields,
            request: &x.request.fields,
            rule,
            backend: &rule.backends[chosen.index].backend,
            facts: &record.facts,
            worker: x.worker,
            content: None,
        });
    }
    let head_only = x.request.method == "HEAD";
    let bodyless = answer.status == 204 || answer.status == 304;
    let framing = match answer.body.len() {
        0 => Framing::Empty,
        _ if bodyless => Framing::Empty,
        bytes => Framing::Length(bytes as u64),
    };
    // A body that would take long to drain, or that the client holds back until it is asked for, costs the connection.
    let input = &x.client.input;
    let drainable = input.known_rest().is_some_and(|rest| rest <= DRAIN_BYTES_MAX);
    let clean = input.is_done() || (drainable && !x.request.expects_continue);
    let keep_alive = clean && x.request.persistent() && !x.worker.draining();

    answer.fields.append("Date", &x.worker.date.text(Instant::now()));
    let output = &mut x.client.output;
    output.discard();
    let end = head_only || framing == Framing::Empty;
    let reply = Reply { framing, keep_alive };
    if output.head(answer.status, &answer.fields, reply, x.request.version, bodyless, end).is_err() {
        return After::Abort;
    }
    record.status = answer.status;
    let due = Instant::now() + DRAIN_TIME_MAX * 5;
    let sent = x.client.timer.until(due, async {
        if !end {
            output.copy(framing, &answer.body).await?;
            output.end(framing, &Fields::new())?;
        }
        output.flush().await
    });
    match sent.await {
        Ok(Ok(())) if keep_alive => drain(x.client).await,
        Ok(Ok(())) => After::Close,
        _ => After::Abort,
    }
}

/// Reads what is left of a request's body and throws it away, within bounds, so that the connection can go on. A stream
/// of HTTP/2 just ends.
pub async fn drain(client: &mut Client<'_>) -> After {
    if client.input.is_done() || matches!(client.input, Source::ClientStream(_)) {
        return After::KeepAlive;
    }
    let due = Instant::now() + DRAIN_TIME_MAX;
    let input = &mut client.input;
    let drained = client.timer.until(due, async {
        let mut rest = DRAIN_BYTES_MAX;
        loop {
            match input.next() {
                Ok(Piece::Data(bytes)) => {
                    input.took(bytes);
                    rest = rest.checked_sub(bytes as u64)?;
                }
                Ok(Piece::End) => return Some(()),
                Ok(Piece::More) if input.fill().await.is_ok_and(|bytes| bytes > 0) => {}
                _ => return None,
            }
        }
    });
    match drained.await {
        Ok(Some(())) => After::KeepAlive,
        _ => After::Close,
    }
}
