//! A request for plugins to look at, without a connection.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use prost::Message as _;
use tokio::time::Instant;

use super::*;
use crate::{
    consumer::{self, KeyHash, PasswordHash},
    crew::Crew,
    forward::Forwarded,
    http1::{Version, head::RequestHead},
    listener::ListenerState,
    route::RequestView,
    snapshot::{Rule, Snapshot, SnapshotCell},
    target::Target,
    threads::Terms,
    worker::{Peer, Shared, Worker},
};

/// See the module documentation.
pub struct Rig {
    pub method: &'static str,
    pub target: Target,
    pub fields: Fields,
    pub facts: Facts,
    pub scheme: &'static str,
    pub client: IpAddr,
    pub trusted: bool,
    pub is_call: bool,
    pub body_length: Option<u64>,
    pub worker: Rc<Worker>,
    pub rule: Arc<Rule>,
    pub forwarded: Forwarded,
    named: Named,
    prefix: usize,
    peer: Peer,
}

pub fn message(kind: &str, config: &str) -> wire::Plugin {
    let (name, kind, config_json) = ("p".to_owned(), kind.to_owned(), config.to_owned());
    wire::Plugin { name, r#type: kind, config_json, ..wire::Plugin::default() }
}

fn change(kind: wire::resource::Kind) -> wire::Change {
    let resource = wire::Resource { kind: Some(kind) };
    let (kind, name) = resource.key().map(|(kind, name)| (kind.into(), name.to_owned())).expect("a kind");
    wire::Change { kind, name, resource: Some(resource.encode_to_vec().into()) }
}

/// A worker of its own.
pub fn worker() -> Rc<Worker> {
    let shared = Arc::new(Shared::for_test(Arc::new(SnapshotCell::default())));
    Rc::new(Worker::new(shared, None, Arc::new(Crew::new(1)), 0))
}

impl Rig {
    /// A plain GET of `/api/users?a=1` at `a.example:8080` from 192.0.2.1, by a route of `/api`, before one plugin of this
    /// type with this configuration.
    pub fn new(kind: &str, config: &str) -> Self {
        Self::with(vec![message(kind, config)])
    }

    /// The same before several plugins.
    pub fn with(plugins: Vec<wire::Plugin>) -> Self {
        Self::of(plugins, None)
    }

    /// The same before one plugin that names this backend.
    pub fn with_backend(name: &str, url: &str, kind: &str, config: &str) -> Self {
        let endpoint = wire::Endpoint { url: url.to_owned(), ..wire::Endpoint::default() };
        let backend = wire::Backend { name: name.to_owned(), endpoints: vec![endpoint], ..wire::Backend::default() };
        Self::of(vec![message(kind, config)], Some(backend))
    }

    fn of(plugins: Vec<wire::Plugin>, named: Option<wire::Backend>) -> Self {
        use wire::{backend_ref::Target as To, path_match::Kind as Path, resource::Kind};
        let path = wire::PathMatch { kind: Some(Path::Prefix("/api".to_owned())) };
        let backend =
            wire::BackendRef { target: Some(To::Url("http://127.0.0.1:1/base".to_owned())), ..Default::default() };
        let rule = wire::Rule {
            matches: vec![wire::Match { path: Some(path), ..wire::Match::default() }],
            backends: vec![backend],
            plugins: plugins.iter().map(|plugin| plugin.name.clone()).collect(),
            ..wire::Rule::default()
        };
        let route = wire::Route { name: "r".to_owned(), rules: vec![rule], ..wire::Route::default() };
        let changes = plugins.into_iter().map(Kind::Plugin).chain(named.map(Kind::Backend)).chain([Kind::Route(route)]);
        let changes = changes.map(change);
        let snapshot = Snapshot::default().compile(1, &changes.collect::<Vec<_>>()).expect("valid");
        let fields = Fields::new();
        let view = RequestView { listener: "", method: "GET", host: "", path: "/api", query: None, fields: &fields };
        let rule = Arc::clone(snapshot.router.find(&view).expect("it matches").rule);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let state = ListenerState::new(0, Terms { address, name: "default".into(), tls: None, guarded: false });
        let mut rig = Self {
            method: "GET",
            target: Target::default(),
            fields: Fields::new(),
            facts: Facts::default(),
            scheme: "http",
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            trusted: false,
            is_call: false,
            body_length: Some(0),
            worker: worker(),
            rule,
            forwarded: Forwarded::default(),
            named: Named { consumers: Some(Arc::default()), backends: snapshot.backends().cloned().collect() },
            prefix: 4,
            peer: Peer::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), Rc::new(state), None),
        };
        rig.at("a.example:8080", "/api/users?a=1");
        rig
    }

    /// Asks for something else.
    pub fn at(&mut self, host: &str, target: &str) {
        let mut request = RequestHead::default();
        request.method.push_str("GET");
        request.version = Version::Http11;
        request.target.extend_from_slice(target.as_bytes());
        request.fields.append("Host", host.as_bytes());
        self.target.read(&request).expect("canonical");
    }

    /// With a consumer that has these groups and keys.
    pub fn consumer(&mut self, name: &str, groups: &[&str], keys: &[&str]) -> &mut Self {
        self.add(name, groups, keys, Box::default())
    }

    /// With a consumer that has this user name and password.
    pub fn user(&mut self, name: &str, username: &str, password: &str) -> &mut Self {
        let hash = PasswordHash::make(password.as_bytes(), [7; 16]).expect("a hash");
        let hash = PasswordHash::parse(&hash).expect("valid");
        self.add(name, &[], &[], [(username.into(), Arc::new(hash))].into())
    }

    fn add(
        &mut self,
        name: &str,
        groups: &[&str],
        keys: &[&str],
        passwords: Box<[(Arc<str>, Arc<PasswordHash>)]>,
    ) -> &mut Self {
        let keys = keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect();
        let groups = groups.iter().collect();
        let consumer = Arc::new(consumer::Consumer { name: name.into(), groups, keys, passwords });
        let consumers = self.named.consumers.as_mut().and_then(Arc::get_mut).expect("nobody else's");
        let taken = consumers.insert(&consumer);
        assert_eq!(taken, []);
        self
    }

    /// With one more field.
    pub fn field(&mut self, name: &str, value: &str) -> &mut Self {
        self.fields.append(name, value.as_bytes());
        self
    }

    /// The request phase: what a plugin says that does not let it go on.
    pub async fn ask(&mut self) -> Option<Flow> {
        let mut request = PluginRequest {
            fields: &mut self.fields,
            method: self.method,
            target: &self.target,
            prefix: self.prefix,
            scheme: self.scheme,
            client: self.client,
            trusted: self.trusted,
            peer: &self.peer,
            is_call: self.is_call,
            rule: &self.rule,
            backend: &self.rule.backends[0].backend,
            body_length: self.body_length,
            forwarded: &self.forwarded,
            named: &self.named,
            worker: &self.worker,
            now: Instant::now(),
            facts: &mut self.facts,
        };
        self.rule.backends[0].chain.on_request(&mut request).await.map(|(_, flow)| flow)
    }

    /// The query that the upstream is asked with.
    pub fn query(&self) -> Option<&str> {
        Rewrite::query_of(self.facts.rewrite.as_deref(), &self.target)
    }

    /// The name of the reason for which it is refused; "" if it is not.
    pub async fn refusal(&mut self) -> &'static str {
        match self.ask().await {
            None => "",
            Some(Flow::Refuse(refusal)) => refusal.reason.name,
            Some(other) => panic!("{other:?}"),
        }
    }

    /// The answer that a plugin makes.
    pub async fn local(&mut self) -> LocalResponse {
        match self.ask().await {
            Some(Flow::Respond(answer)) => *answer,
            other => panic!("{other:?}"),
        }
    }

    /// The response phase of an answer that the gateway makes.
    pub fn answer(&mut self, status: u16, lines: &[(&str, &str)]) -> Vec<String> {
        self.pass(status, lines, None)
    }

    /// The same of an answer with that body of an upstream's.
    pub fn pass(&mut self, status: u16, lines: &[(&str, &str)], content: Option<&mut Content>) -> Vec<String> {
        let mut fields = Fields::new();
        lines.iter().for_each(|(name, value)| fields.append(name, value.as_bytes()));
        let (request, facts) = (&self.fields, &self.facts);
        let (rule, backend) = (&self.rule, &self.rule.backends[0].backend);
        let worker = &self.worker;
        let mut response =
            PluginResponse { status, fields: &mut fields, request, rule, backend, facts, worker, content };
        self.rule.backends[0].chain.on_response(&mut response);
        tests::lines(&fields)
    }
}
