//! What plugins see of a request and of its answer, and what they say of it.

use std::{cell::OnceCell, fmt::Debug, net::IpAddr, ops::Deref, rc::Rc, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Chain, mirror::copies::RequestCopy, spec::Reason};
use crate::{
    consumer::{Consumers, Groups},
    encoding::{Accepted, Encoder},
    fields::Fields,
    forward::{self, Forwarded},
    http1::Framing,
    snapshot::{Backend, Id, Rule, Snapshot},
    target::Target,
    worker::{Peer, Worker},
};

/// What happens after a plugin saw a request.
#[derive(Debug)]
pub enum Flow {
    /// On to the next plugin, or to the upstream.
    Continue,
    /// This is the answer; no upstream sees the request.
    Respond(Box<LocalResponse>),
    /// The request is refused.
    Refuse(Box<Refusal>),
}

/// An answer that the gateway makes by itself.
#[derive(Clone, Debug)]
pub struct LocalResponse {
    /// Status code.
    pub status: u16,
    /// Without framing fields.
    pub fields: Fields,
    /// The whole body.
    pub body: Bytes,
}

/// Why a plugin does not let a request through. The client is told in problem details, or in a status of gRPC.
#[derive(Debug)]
pub struct Refusal {
    /// One of the type's table.
    pub reason: &'static Reason,
    /// Of the answer: the reason's own, as a rule.
    pub status: u16,
    /// Further fields of the answer.
    pub fields: Fields,
    /// What the client is told instead of the reason's own sentence. Nothing of what is behind the gateway.
    pub detail: Option<String>,
    /// What a client that calls no gRPC gets instead of problem details; `fields` say what it is.
    pub body: Option<Box<Bytes>>,
}

impl Refusal {
    /// For this reason.
    #[must_use]
    pub fn new(reason: &'static Reason) -> Self {
        Self { reason, status: reason.status, fields: Fields::new(), detail: None, body: None }
    }

    /// With one more field in the answer; the value is one that a field can have.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Self {
        self.fields.append(name, value);
        self
    }

    /// With another sentence for the client.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl From<Refusal> for Flow {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(Box::new(refusal))
    }
}

/// A request on its way through the plugins.
#[derive(Debug)]
pub struct PluginRequest<'r> {
    /// The end-to-end fields, as they go upstream.
    pub fields: &'r mut Fields,
    /// The method.
    pub method: &'r str,
    /// What is asked for, in canonical form; a rewrite does not change it ([`Facts::rewrite`]).
    pub target: &'r Target,
    /// How many bytes of the path the route's prefix has matched.
    pub prefix: usize,
    /// "http" or "https", as the client used it, as far as trusted proxies tell.
    pub scheme: &'static str,
    /// The client's address, behind trusted proxies.
    pub client: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// Who is at the other end of the connection, with what its certificate says; and the listener.
    pub peer: &'r Peer,
    /// Whether it is a call of gRPC.
    pub is_call: bool,
    /// The rule that matched, with its route's name.
    pub rule: &'r Rule,
    /// The backend that was chosen.
    pub backend: &'r Backend,
    /// The bytes of the body, if the head says how many; 0 for none.
    pub body_length: Option<u64>,
    /// What is known of the client beyond its address.
    pub forwarded: &'r Forwarded,
    /// What the plugins of the chain look up.
    pub named: &'r Named,
    /// Who serves.
    pub worker: &'r Worker,
    /// When the request's head was there.
    pub now: Instant,
    /// What the plugins before have found out, and what those after will read.
    pub facts: &'r mut Facts,
}

impl PluginRequest<'_> {
    /// The query that the upstream is asked with, as far as it is known by now.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        Rewrite::query_of(self.facts.rewrite.as_deref(), self.target)
    }

    /// Writes into the head of a request of the gateway's own who asked this one, as upstreams are told.
    pub fn tell_identity(&self, host: &str, fields: &mut Fields) {
        let identity = forward::Identity {
            host,
            asked_host: &self.target.host_field,
            peer: &self.peer.text,
            forwarded: self.forwarded,
            tls: self.peer.tls.as_ref().map(|tls| tls.identity.as_deref()),
            upgrade: false,
        };
        forward::identity_fields(&identity, |name, value| fields.append(name, &value.concat()));
    }
}

/// What the plugins of a request look up in its snapshot, beyond its rule.
#[derive(Debug)]
pub struct Named {
    /// All that there are, if a plugin of the chain asks for them.
    pub consumers: Option<Arc<Consumers>>,
    /// Those that plugins of the chain name.
    pub backends: Vec<Arc<Backend>>,
}

impl Named {
    /// For these plugins.
    #[must_use]
    pub fn of(chain: &Chain, snapshot: &Snapshot) -> Self {
        let asks = chain.iter().any(|plugin| plugin.asks_for_consumers());
        let backends = chain.iter().filter_map(|plugin| snapshot.backend(plugin.backend()?));
        Self { consumers: asks.then(|| Arc::clone(&snapshot.consumers)), backends: backends.cloned().collect() }
    }

    /// The backend of that name.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| *backend.name == *name)
    }
}

/// What plugins find out about a request, for those after them, the log and the answer.
#[derive(Debug, Default)]
pub struct Facts {
    /// Who asks, once an authentication plugin knows.
    pub consumer: Option<Consumer>,
    /// The request's id; tokens of a header field only.
    pub request_id: Option<Box<str>>,
    /// What the upstream is asked for instead.
    pub rewrite: Option<Box<Rewrite>>,
    /// The most bytes of the body, if a plugin bounds it.
    pub body_bytes_max: Option<u64>,
    /// Set on whatever answer the client gets, in the place of what the answer has by these names.
    pub answer: Fields,
    /// The codings in which the client takes the answer, if a plugin asks for them.
    pub accepted: Option<Accepted>,
    /// Names of the fields that tell upstreams what a token says: they are ours, not the client's.
    pub told: Option<Arc<[Box<str>]>>,
    /// What goes to mirrors, if the request goes upstream.
    pub copies: Vec<RequestCopy>,
    /// Dropped when the request is over.
    pub held: Vec<Box<dyn Debug>>,
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// The consumer's name, or the subject of a token.
    pub name: Arc<str>,
    /// What it belongs to.
    pub groups: Groups,
    /// What a token says of it, if one does; shared with whoever remembers the token.
    pub claims: Option<Rc<Claims>>,
    /// The type of the plugin that established it.
    pub by: &'static str,
}

/// What a token says, as it came: taken apart when somebody looks for a claim, and not before.
#[derive(Debug)]
pub struct Claims {
    text: Box<str>,
    map: OnceCell<serde_json::Map<String, serde_json::Value>>,
}

impl Claims {
    /// Of this JSON object.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self { text: text.into(), map: OnceCell::new() }
    }

    /// How many bytes of memory they take, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // A name and a value in the map take some four times what they do in the text.
        self.text.len() * 5
    }
}

impl Deref for Claims {
    type Target = serde_json::Map<String, serde_json::Value>;

    fn deref(&self) -> &Self::Target {
        self.map.get_or_init(|| serde_json::from_str(&self.text).unwrap_or_default())
    }
}

/// What the upstream is asked for instead of the request's own target.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Canonical; in the place of the path without the route's prefix.
    pub path: Option<String>,
    /// Canonical, with a port if it has one.
    pub host: Option<String>,
    /// What is left of the query where a plugin has taken something out of it; "" for none.
    pub query: Option<String>,
}

impl Rewrite {
    /// The query that the upstream is asked with.
    #[must_use]
    pub fn query_of<'q>(rewrite: Option<&'q Self>, target: &'q Target) -> Option<&'q str> {
        match rewrite.and_then(|rewrite| rewrite.query.as_deref()) {
            Some(query) => Some(query).filter(|query| !query.is_empty()),
            None => target.query(),
        }
    }
}

/// An answer on its way to the client.
#[derive(Debug)]
pub struct PluginResponse<'r> {
    /// Status code.
    pub status: u16,
    /// The end-to-end fields.
    pub fields: &'r mut Fields,
    /// The request's fields, as they went upstream.
    pub request: &'r Fields,
    /// The rule that matched.
    pub rule: &'r Rule,
    /// The backend that was chosen.
    pub backend: &'r Backend,
    /// What was found out about the request.
    pub facts: &'r Facts,
    /// Who serves.
    pub worker: &'r Worker,
    /// The upstream's body; `None` for an answer that the gateway makes.
    pub content: Option<&'r mut Content>,
}

impl PluginResponse<'_> {
    /// Says that the answer depends on that field of the request, unless that is said already.
    pub fn varies_by(&mut self, name: &str) {
        let says = |value: &[u8]| {
            let mut names = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            names.any(|said| said == b"*" || said.eq_ignore_ascii_case(name.as_bytes()))
        };
        if !self.fields.get_all("vary").any(says) {
            self.fields.append("Vary", name.as_bytes());
        }
    }
}

/// A body on its way to the client.
#[derive(Debug)]
pub struct Content {
    /// As the upstream frames it.
    pub framing: Framing,
    /// The head only describes it, and it is not sent (HEAD, 304).
    pub described: bool,
    /// Whether the client takes one of a length that only its end tells.
    pub any_length: bool,
    /// What it goes through.
    pub encoder: Option<Box<Encoder>>,
}

/// Who a plugin is, for state that outlives a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of its name and type.
    pub id: Id,
    /// Of its name, type and whole configuration.
    pub config: Id,
}
