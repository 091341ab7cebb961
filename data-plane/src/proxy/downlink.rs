//! From the upstream to the client: interim answers, the answer's head, its body, and then whatever an upgraded
//! connection carries.

mod encoded;

use tokio::time::Instant;

use super::{
    Record,
    attempt::Plan,
    carry,
    flow::{Flow, UploadState},
    yield_now_and_then,
};
use crate::{
    body::{Sink, Source, is_stream},
    encoding::Encoder,
    error::ProxyError,
    forward::{Reply, sanitise_response},
    http1::{
        Framing, Version,
        body::Piece,
        head::{INTERIM_MAX, RequestHead, ResponseHead},
        write,
    },
    http2,
    plugin::{Content, PluginResponse},
    telemetry::access_log::milliseconds,
    upstream::Retrying,
    websocket,
    worker::Worker,
};

/// How the downward direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The client has its answer.
    Answered {
        /// The upstream's connection has nothing more to say and stays open.
        reusable: bool,
        /// The client's connection may stay open.
        keep_alive: bool,
    },
    /// Both sides of a tunnel are done.
    TunnelDone,
    /// One side of a tunnel failed.
    TunnelBroken,
    /// Nothing was sent to the client; another try may do better.
    RetryStatus,
    /// The upstream closed before the head of an answer was there.
    Closed {
        /// Whether some of it was.
        answered: bool,
        /// Whether the upstream said that it has not looked at the request.
        unseen: bool,
        /// What that is to the client.
        error: ProxyError,
    },
    /// The answer is invalid or cut, or the client does not take it.
    Failed(ProxyError),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Downlink<'d, 'c, 'u> {
    /// What the upstream sends.
    pub from: Source<'u>,
    /// What the client gets.
    pub to: &'d mut Sink<'c>,
    /// What is answered.
    pub request: &'d RequestHead,
    /// Room for the answer's head.
    pub response: &'d mut ResponseHead,
    /// The other direction.
    pub flow: &'d Flow,
    /// The upstream's connection has carried other requests.
    pub reused: bool,
    /// What was decided before.
    pub plan: &'d Plan<'d>,
    /// What is to be known of the request in the end.
    pub record: &'d mut Record,
    /// Who serves.
    pub worker: &'d Worker,
    /// Whether an answer may be held back for that of another try.
    pub retrying: &'d Retrying<'d>,
}

impl Downlink<'_, '_, '_> {
    /// Carries the answer down, to its end.
    pub async fn run(&mut self) -> Down {
        match self.answer().await {
            Ok(down) | Err(down) => down,
        }
    }

    async fn answer(&mut self) -> Result<Down, Down> {
        self.final_head().await?;
        if let Some(call) = &self.record.call {
            call.answered(self.response.status, &self.worker.upstreams);
        }
        if self.response.status == 101 || self.agrees_in_frames() {
            return self.tunnel().await;
        }
        if self.is_worth_another_try() {
            return Err(Down::RetryStatus);
        }
        match self.write_head()? {
            (reply, None) => self.body(reply).await,
            // In a box: whose body goes as it is does not pay for its size.
            (reply, Some(encoder)) => Box::pin(self.encoded_body(reply, encoder)).await,
        }
    }

    /// Whether the answer is dropped for another try's; pays for that.
    fn is_worth_another_try(&self) -> bool {
        let response = &*self.response;
        self.flow.replayable.get()
            && self.retrying.after_status(response.status, &response.fields, |span| self.flow.has_time(span))
    }

    /// Reads the head of the answer, passing interim ones on.
    async fn final_head(&mut self) -> Result<(), Down> {
        // An interim answer that announces a body, or an end, says so of the connection, not of itself only.
        let mut closes = false;
        for _ in 0..INTERIM_MAX {
            self.head().await?;
            closes |= self.response.connection.close;
            self.response.connection.close = closes;
            match self.response.status {
                101 if self.agrees_to_upgrade() => return Ok(()),
                101 => return Err(Down::Failed(ProxyError::UpstreamProtocol)),
                100..200 => self.interim().await?,
                _ => return Ok(()),
            }
        }
        Err(Down::Failed(ProxyError::UpstreamProtocol))
    }

    async fn head(&mut self) -> Result<(), Down> {
        let input = match &mut self.from {
            Source::Http1 { input, .. } => input,
            // No client answers.
            Source::ClientStream(_) => return Err(Down::Failed(ProxyError::UpstreamProtocol)),
            Source::UpstreamStream(receiver) => {
                return match receiver.head(self.response, &self.request.method).await {
                    http2::Head::Read => Ok(()),
                    http2::Head::Closed { error, unseen } => Err(Down::Closed { answered: false, unseen, error }),
                    http2::Head::Invalid => Err(Down::Failed(ProxyError::UpstreamProtocol)),
                };
            }
        };
        loop {
            match self.response.parse(input.buffer, &self.request.method) {
                Ok(Some(bytes)) => {
                    bytes::Buf::advance(input.buffer, bytes);
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, backend = %self.plan.chosen.backend.name, "invalid answer");
                    return Err(Down::Failed(ProxyError::UpstreamProtocol));
                }
            }
            // The body usually comes with it. A client may let the answers of many streams wait, though.
            let read = match self.to {
                Sink::Http1(_) => input.fill_bulk().await,
                Sink::UpstreamStream(_) | Sink::ClientStream(_) => input.fill().await,
            };
            match read {
                Ok(0) | Err(_) => {
                    let answered = !input.buffer.is_empty();
                    return Err(Down::Closed { answered, unseen: false, error: ProxyError::UpstreamClosed });
                }
                Ok(_) if self.flow.head_sent.get() => {}
                // An answer before the question, where there were others: who knows which it is for.
                Ok(_) if self.reused => {
                    return Err(Down::Closed { answered: false, unseen: false, error: ProxyError::UpstreamClosed });
                }
                // A server that is full, for one, answers whoever connects before it has read anything.
                Ok(_) => self.flow.unasked.set(true),
            }
        }
    }

    /// Whether it speaks WebSocket from here on. Whoever asked with a key looks for the proof that it was read: here, if
    /// the client did not.
    fn agrees_to_upgrade(&self) -> bool {
        let fields = &self.response.fields;
        let accepted = fields.get("sec-websocket-accept").unwrap_or_default();
        let proven = |key: &String| websocket::accept(key.as_bytes()).as_bytes() == accepted;
        self.plan.upgrade
            && self.response.connection.upgrade
            && fields.get("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
            && self.plan.key.as_ref().is_none_or(proven)
    }

    /// The same by HTTP/2, where any 2xx agrees (RFC 8441 section 5).
    fn agrees_in_frames(&self) -> bool {
        self.plan.upgrade && self.response.version == Version::Http2 && matches!(self.response.status, 200..300)
    }

    /// Passes an interim answer on to a client that understands it.
    async fn interim(&mut self) -> Result<(), Down> {
        let unasked = self.response.status == 100 && !self.request.expects_continue;
        if self.request.version == Version::Http10 || unasked {
            return Ok(());
        }
        sanitise_response(&mut self.response.fields, &self.response.connection, false);
        match self.to {
            Sink::Http1(output) => {
                write::status_line(output.buffer, self.response.status);
                for (name, value) in self.response.fields.iter() {
                    write::field(output.buffer, name, value);
                }
                output.buffer.extend_from_slice(b"\r\n");
            }
            // Nobody answers an upstream.
            Sink::UpstreamStream(_) => {}
            Sink::ClientStream(answer) => {
                answer.interim(self.response.status, &self.response.fields).map_err(client_gone)?;
            }
        }
        self.flush().await
    }

    /// Writes the answer's head: from here on it is the client's. With what the body goes through, if it goes through something.
    fn write_head(&mut self) -> Result<(Reply, Option<Box<Encoder>>), Down> {
        let status = self.response.status;
        let described = self.request.method == "HEAD" || status == 304;
        sanitise_response(&mut self.response.fields, &self.response.connection, described);
        let any_length = self.request.version != Version::Http10;
        let mut content = Content { framing: self.response.framing, described, any_length, encoder: None };
        self.plan.chain.on_response(&mut PluginResponse {
            status,
            fields: &mut self.response.fields,
            request: &self.request.fields,
            rule: self.plan.rule,
            backend: &self.plan.chosen.backend,
            facts: &self.record.facts,
            worker: self.worker,
            content: Some(&mut content),
        });
        let stays = self.request.persistent() && !self.worker.draining() && !self.leaves_upload(status);
        let framing = if content.encoder.is_some() { Framing::Chunked } else { self.response.framing };
        let reply = Reply::to(framing, self.request.version, stays);
        self.say(status, reply, described || status == 204)?;
        let stream = self.response.fields.get("content-type").is_some_and(is_stream);
        if self.response.framing != Framing::Empty {
            self.flow.response_begun(stream, self.record.ended.unwrap_or_else(Instant::now));
        }
        Ok((reply, content.encoder))
    }

    /// Whether the answer ends an upload that is not over: an error, or a final answer to a client that was waiting to be
    /// asked for the body. Nobody knows how much of it the client still sends, so nothing can follow on its connection.
    fn leaves_upload(&self, status: u16) -> bool {
        self.flow.upload.get() != UploadState::Done && (status >= 400 || self.request.expects_continue)
    }

    /// Says what the upstream answered, and the gateway's own part of it.
    fn say(&mut self, status: u16, reply: Reply, bodyless: bool) -> Result<(), Down> {
        let fields = &mut self.response.fields;
        let now = Instant::now();
        // Who passes an answer on without a date gives it one (RFC 9110 section 6.6.1).
        if fields.get("date").is_none() {
            fields.append("Date", &self.worker.date.text(now));
        }
        let backend = &self.plan.chosen.backend;
        let cookie = self.record.call.as_ref().and_then(|call| call.cookie);
        if let (Some(sticky), Some(value)) = (&backend.sticky, cookie) {
            let value = format!("{}={value:08x}{}", sticky.cookie, sticky.attributes);
            fields.append("Set-Cookie", value.as_bytes());
        }
        if self.worker.shared.policy.debug_headers {
            fields.append("X-RustyGate-Backend", backend.name.as_bytes());
            let taken = now.saturating_duration_since(self.record.started);
            fields.append_with("X-RustyGate-Duration-ms", |out| milliseconds(out, taken));
        }
        let end = reply.framing == Framing::Empty && status != 101;
        self.to.head(status, fields, reply, self.request.version, bodyless, end).map_err(client_gone)?;
        self.record.status = status;
        self.record.ended = Some(now);
        Ok(())
    }

    async fn body(&mut self, reply: Reply) -> Result<Down, Down> {
        self.from.begin(self.response.framing);
        let mut carried = 0;
        loop {
            let cut = |_| Down::Failed(ProxyError::UpstreamProtocol);
            match self.from.next().map_err(cut)? {
                Piece::Data(bytes) => {
                    self.to.piece(reply.framing, &mut self.from, bytes, |_| {}).await.map_err(client_gone)?;
                    yield_now_and_then(&mut carried, bytes).await;
                }
                Piece::More => {
                    self.flush().await?;
                    self.record.ended = None;
                    // What a client holds up by taking nothing of many streams is little.
                    let filled = match self.to.has_room() {
                        true => self.from.fill().await,
                        false => self.from.fill_little().await,
                    };
                    match filled {
                        Ok(0) => self.from.closed().map_err(|_| Down::Failed(ProxyError::UpstreamClosed))?,
                        // A body that ends with the connection ends when that is closed in order, not by its failure.
                        Err(error) => return Err(Down::Failed(stream_error(&error))),
                        Ok(_) => self.flow.progress(),
                    }
                }
                Piece::End => return self.end(reply).await,
            }
        }
    }

    /// The body is with the client; what is behind it follows.
    async fn end(&mut self, reply: Reply) -> Result<Down, Down> {
        let trailers = self.from.trailers_mut();
        if !trailers.is_empty() {
            self.plan.chain.on_response_trailers(trailers);
        }
        self.to.end(reply.framing, self.from.trailers()).map_err(client_gone)?;
        self.flush().await?;
        Ok(Down::Answered { reusable: self.response.persistent(), keep_alive: reply.keep_alive })
    }

    /// Both sides agreed to speak another protocol: from here on bytes are carried as they come.
    async fn tunnel(&mut self) -> Result<Down, Down> {
        sanitise_response(&mut self.response.fields, &self.response.connection, false);
        // Each connection has a handshake of its own (RFC 8441 section 5.1).
        let fields = &mut self.response.fields;
        let status = if self.request.version == Version::Http2 { 200 } else { 101 };
        if self.request.version != self.response.version {
            fields.remove("sec-websocket-accept");
            if let (101, Some(key)) = (status, self.request.fields.get("sec-websocket-key")) {
                fields.append("Sec-WebSocket-Accept", websocket::accept(key).as_bytes());
            }
        }
        self.say(status, Reply { framing: Framing::UntilClose, keep_alive: true }, true)?;
        self.flush().await?;
        self.record.ended = None;
        self.flow.response_begun(true, Instant::now());
        self.flow.tunnel.set(true);
        let _open = self.worker.tunnel_opened();
        match carry(&mut self.from, self.to, self.flow).await {
            Ok(()) if self.flow.client_closed.get() => Ok(Down::TunnelDone),
            Ok(()) => {
                self.flow.upstream_closed.set(true);
                std::future::pending().await
            }
            Err(_) => Ok(Down::TunnelBroken),
        }
    }

    async fn flush(&mut self) -> Result<(), Down> {
        self.to.flush().await.map_err(client_gone)
    }
}

fn client_gone(_: std::io::Error) -> Down {
    Down::Failed(ProxyError::ClientGone)
}

/// What it is to the client that an answer's body failed so.
fn stream_error(error: &std::io::Error) -> ProxyError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>());
    inner.map_or(ProxyError::UpstreamClosed, ProxyError::from)
}
