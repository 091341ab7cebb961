//! The plugins, a closed set: one file each in `plugin/`.
//!
//! To add one: its file with a [`Spec`], a variant of `Kind` with an arm wherever the compiler asks for one, and its
//! line in [`TYPES`], whose order is that of execution.

mod acl;
mod api_key;
mod basic_auth;
mod body_limit;
mod caller;
mod chain;
mod compress;
mod concurrency_limit;
mod config;
mod cors;
mod count_key;
mod fault;
mod forward_auth;
mod headers;
mod ip_filter;
pub mod jwt;
pub mod mirror;
mod rate_limit;
mod redirect;
mod request;
mod request_id;
mod respond;
mod rewrite;
mod server;
pub mod spec;

use std::sync::Arc;

use rustygate_proto::v1 as wire;

use self::config::Config;
pub use self::{
    chain::{Chain, Chains},
    config::SECRET,
    request::{
        Claims, Consumer, Content, Facts, Flow, Identity, LocalResponse, Named, PluginRequest, PluginResponse, Refusal,
        Rewrite,
    },
    spec::{Reason, Spec},
};
use crate::{
    fields::Fields,
    snapshot::{Id, fault as faults_of, fault::Faults},
};

/// The types that this version has, in the order in which a request meets them; an answer meets them in reverse.
///
/// What compresses answers comes first, so that it sees them as they go, and what names a request; then what refuses it without
/// knowing who asks, what answers without an upstream being asked for (a preflight, a redirect), who asks, what that one may
/// do and how often, and last what changes the request or copies it.
pub static TYPES: [&Spec; 18] = [
    &compress::SPEC,
    &request_id::SPEC,
    &ip_filter::SPEC,
    &cors::SPEC,
    &redirect::SPEC,
    &fault::SPEC,
    &body_limit::SPEC,
    &jwt::SPEC,
    &api_key::SPEC,
    &basic_auth::SPEC,
    &forward_auth::SPEC,
    &acl::SPEC,
    &rate_limit::SPEC,
    &concurrency_limit::SPEC,
    &headers::SPEC,
    &rewrite::SPEC,
    &mirror::SPEC,
    &respond::SPEC,
];

/// The table of the type of that name.
#[must_use]
pub fn spec_of(name: &str) -> Option<&'static Spec> {
    TYPES.iter().find(|spec| spec.name == name).copied()
}

/// The most secrets of one plugin.
const SECRETS_MAX: usize = 1000;

/// One configured plugin.
#[derive(Debug)]
pub struct Plugin {
    /// As the manifest names it.
    pub name: Box<str>,
    /// Its type.
    pub spec: &'static Spec,
    /// Keys of its state that outlives snapshots.
    pub identity: Identity,
    /// The type's place in [`TYPES`].
    order: usize,
    /// Whether it does anything.
    enabled: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// It is not enabled.
    Off,
    Compress(compress::Compress),
    RequestId(request_id::RequestId),
    IpFilter(ip_filter::IpFilter),
    Cors(Box<cors::Cors>),
    Redirect(redirect::Redirect),
    Fault(fault::Fault),
    BodyLimit(body_limit::BodyLimit),
    Jwt(Box<jwt::Jwt>),
    ApiKey(api_key::ApiKey),
    BasicAuth(basic_auth::BasicAuth),
    ForwardAuth(Box<forward_auth::ForwardAuth>),
    Acl(acl::Acl),
    RateLimit(Box<rate_limit::RateLimit>),
    ConcurrencyLimit(concurrency_limit::ConcurrencyLimit),
    Headers(Box<headers::Headers>),
    Rewrite(rewrite::Rewrite),
    Mirror(mirror::Mirror),
    Respond(LocalResponse),
}

impl Plugin {
    /// Compiles a plugin from the wire.
    ///
    /// # Errors
    /// Every fault of its configuration.
    pub fn compile(plugin: &wire::Plugin) -> Result<Self, Vec<wire::Fault>> {
        let mut faults = Faults::default();
        faults.enter(wire::Kind::Plugin, &plugin.name);
        let Some(order) = TYPES.iter().position(|spec| spec.name == plugin.r#type) else {
            let other = &plugin.r#type;
            let message = format_args!("plugin type {other:?} is not available in this version");
            let names = || TYPES.iter().map(|spec| spec.name);
            let hint = match faults_of::closest(other, names()) {
                Some(close) => format!("did you mean {close:?}?"),
                None => format!("available types: {}", names().collect::<Vec<_>>().join(", ")),
            };
            faults.add_with_hint(faults_of::UNKNOWN_PLUGIN_TYPE, "type", message, hint);
            return Err(faults.into_vec());
        };
        let spec = TYPES[order];
        let enabled = plugin.enabled.unwrap_or(true);
        let kind = match spec.name {
            // What does nothing needs no configuration; one that is there has to be right all the same.
            _ if !enabled && matches!(plugin.config_json.as_str(), "" | "{}") => Some(Kind::Off),
            "compress" => read(plugin, spec, &mut faults, compress::compile).map(Kind::Compress),
            "request_id" => read(plugin, spec, &mut faults, request_id::compile).map(Kind::RequestId),
            "ip_filter" => read(plugin, spec, &mut faults, ip_filter::compile).map(Kind::IpFilter),
            "cors" => read(plugin, spec, &mut faults, cors::compile).map(|cors| Kind::Cors(Box::new(cors))),
            "redirect" => read(plugin, spec, &mut faults, redirect::compile).map(Kind::Redirect),
            "fault" => read(plugin, spec, &mut faults, fault::compile).map(Kind::Fault),
            "body_limit" => read(plugin, spec, &mut faults, body_limit::compile).map(Kind::BodyLimit),
            "jwt" => read(plugin, spec, &mut faults, jwt::compile).map(|jwt| Kind::Jwt(Box::new(jwt))),
            "api_key" => read(plugin, spec, &mut faults, api_key::compile).map(Kind::ApiKey),
            "basic_auth" => read(plugin, spec, &mut faults, basic_auth::compile).map(Kind::BasicAuth),
            "forward_auth" => {
                read(plugin, spec, &mut faults, forward_auth::compile).map(|auth| Kind::ForwardAuth(Box::new(auth)))
            }
            "acl" => read(plugin, spec, &mut faults, acl::compile).map(Kind::Acl),
            "rate_limit" => {
                let compile =
                    |config: &Config<'_>, faults: &mut Faults| rate_limit::compile(config, &plugin.name, faults);
                read(plugin, spec, &mut faults, compile).map(|limit| Kind::RateLimit(Box::new(limit)))
            }
            "concurrency_limit" => {
                read(plugin, spec, &mut faults, concurrency_limit::compile).map(Kind::ConcurrencyLimit)
            }
            "headers" => {
                read(plugin, spec, &mut faults, headers::compile).map(|headers| Kind::Headers(Box::new(headers)))
            }
            "rewrite" => read(plugin, spec, &mut faults, rewrite::compile).map(Kind::Rewrite),
            "mirror" => read(plugin, spec, &mut faults, mirror::compile).map(Kind::Mirror),
            "respond" => read(plugin, spec, &mut faults, respond::compile).map(Kind::Respond),
            _ => None,
        };
        let named = format!("{}\0{}", spec.name, plugin.name);
        let identity = Identity { id: Id::of("plugin", &named), config: config_id(&named, plugin) };
        match kind {
            Some(kind) if faults.is_empty() => {
                Ok(Self { name: plugin.name.as_str().into(), spec, identity, order, enabled, kind })
            }
            _ => Err(faults.into_vec()),
        }
    }

    /// The request phase: may change the request and what is known of it, wait, and answer. Types that never wait cost no
    /// future of their own; those that do put theirs in a box, so that nobody else pays for its size.
    pub async fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        match &self.kind {
            Kind::Off => Flow::Continue,
            Kind::Compress(plugin) => plugin.on_request(request),
            Kind::RequestId(plugin) => plugin.on_request(request),
            Kind::IpFilter(plugin) => plugin.on_request(request),
            Kind::Cors(plugin) => plugin.on_request(request),
            Kind::Redirect(plugin) => plugin.on_request(request),
            Kind::Fault(plugin) => match plugin.delay() {
                Some(time) => Box::pin(plugin.hold_up(time)).await,
                None => plugin.abort(),
            },
            Kind::BodyLimit(plugin) => plugin.on_request(request),
            Kind::Jwt(plugin) => match plugin.on_request(self.identity.config, request, true) {
                Ok(flow) => flow,
                Err(fetch) => Box::pin(plugin.after(fetch, self.identity.config, request)).await,
            },
            Kind::ApiKey(plugin) => plugin.on_request(request),
            Kind::BasicAuth(plugin) => Box::pin(plugin.on_request(request)).await,
            Kind::ForwardAuth(plugin) => Box::pin(plugin.on_request(request)).await,
            Kind::Acl(plugin) => plugin.on_request(request),
            Kind::RateLimit(plugin) if plugin.is_shared() => Box::pin(plugin.ask(self.identity, request)).await,
            Kind::RateLimit(plugin) => plugin.on_request(self.identity, request),
            Kind::ConcurrencyLimit(plugin) => plugin.on_request(self.identity.id, request),
            Kind::Headers(plugin) => plugin.on_request(request),
            Kind::Rewrite(plugin) => plugin.on_request(request),
            Kind::Mirror(plugin) => plugin.on_request(self.identity.id, request),
            Kind::Respond(response) => Flow::Respond(Box::new(response.clone())),
        }
    }

    /// Whether it looks consumers up.
    #[must_use]
    pub fn asks_for_consumers(&self) -> bool {
        matches!(self.kind, Kind::ApiKey(_) | Kind::BasicAuth(_))
    }

    /// Where keys are published that it checks tokens with.
    #[must_use]
    pub fn key_source(&self) -> Option<&Arc<jwt::source::Source>> {
        match &self.kind {
            Kind::Jwt(plugin) if self.enabled => plugin.source.as_ref(),
            _ => None,
        }
    }

    /// The name of the backend that it sends requests of its own to.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        match &self.kind {
            Kind::ForwardAuth(plugin) => Some(&plugin.backend),
            Kind::Mirror(plugin) => Some(&plugin.backend),
            _ => None,
        }
    }

    /// The response phase: may change the fields that go to the client.
    pub fn on_response(&self, response: &mut PluginResponse<'_>) {
        match &self.kind {
            Kind::Compress(plugin) => plugin.on_response(response),
            Kind::Cors(plugin) => plugin.on_response(response),
            Kind::Headers(plugin) => plugin.on_response(response),
            _ => {}
        }
    }

    /// The trailers of a request: whatever this plugin decides about in the head is not said behind the body again.
    pub fn on_request_trailers(&self, trailers: &mut Fields) {
        match &self.kind {
            Kind::Headers(plugin) => plugin.request.apply_to_trailers(trailers),
            Kind::RequestId(plugin) => plugin.on_trailers(trailers),
            Kind::Jwt(plugin) => plugin.on_trailers(trailers),
            Kind::ForwardAuth(plugin) => plugin.on_trailers(trailers),
            Kind::ApiKey(_) | Kind::BasicAuth(_) => caller::forget(trailers),
            _ => {}
        }
    }

    /// The same of a response.
    pub fn on_response_trailers(&self, trailers: &mut Fields) {
        match &self.kind {
            Kind::Headers(plugin) => plugin.response.apply_to_trailers(trailers),
            Kind::RequestId(plugin) => plugin.on_trailers(trailers),
            Kind::Cors(_) => trailers.retain(|name, _| !cors::is_own(name)),
            _ => {}
        }
    }
}

/// Compiles a configuration; "" stands for an empty one.
fn read<T>(
    plugin: &wire::Plugin,
    spec: &'static Spec,
    faults: &mut Faults,
    compile: impl FnOnce(&Config<'_>, &mut Faults) -> T,
) -> Option<T> {
    if plugin.secrets.len() > SECRETS_MAX {
        let message = format_args!("there are more than {SECRETS_MAX} secrets");
        faults.add(faults_of::BAD_PLUGIN_CONFIG, "config", message);
        return None;
    }
    let text = if plugin.config_json.is_empty() { "{}" } else { &plugin.config_json };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => Config::read(&value, spec.keys, &plugin.secrets, faults).map(|config| compile(&config, faults)),
        Err(error) => {
            faults.add(faults_of::BAD_PLUGIN_CONFIG, "config", format_args!("the configuration is no JSON: {error}"));
            None
        }
    }
}

fn config_id(named: &str, plugin: &wire::Plugin) -> Id {
    let mut identity = format!("{named}\0{}", plugin.config_json);
    for secret in &plugin.secrets {
        let hash = match &secret.form {
            Some(wire::secret::Form::Clear(bytes)) => blake3::hash(bytes).to_hex(),
            _ => blake3::hash(b"").to_hex(),
        };
        identity.push_str(&hash);
    }
    Id::of("plugin configuration", &identity)
}

/// Whether chance has it so, in so many of 100 cases.
fn by_chance(percent: f64) -> bool {
    fastrand::f64() * 100.0 < percent
}

#[cfg(test)]
mod rig;

#[cfg(test)]
mod tests;
