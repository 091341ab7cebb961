//! Wire resources -> the YAML that a user would have written: the inverse of `decode`, in the shortest forms.

use rustygate_data_plane::{duration, plugin::SECRET};
use rustygate_proto::v1 as wire;

use super::emit::{Yaml, quoted};

/// All resources, a section for each kind, sorted by name.
pub(super) fn document(resources: &[wire::Resource]) -> String {
    use wire::resource::Kind;
    let mut defaults = None;
    let mut sections: [(&str, Vec<(&str, Yaml)>); 6] =
        ["certificates", "listeners", "backends", "consumers", "plugins", "routes"].map(|name| (name, Vec::new()));
    for resource in resources {
        let (section, name, yaml) = match &resource.kind {
            Some(Kind::Certificate(item)) => (0, &item.name, certificate(item)),
            Some(Kind::Listener(item)) => (1, &item.name, listener(item)),
            Some(Kind::Backend(item)) => (2, &item.name, backend(item)),
            Some(Kind::Consumer(item)) => (3, &item.name, consumer(item)),
            Some(Kind::Plugin(item)) => (4, &item.name, plugin(item)),
            Some(Kind::Route(item)) => (5, &item.name, route(item)),
            Some(Kind::Defaults(item)) => {
                let plugins = Yaml::List(item.plugins.iter().map(|plugin| Yaml::text(plugin)).collect());
                defaults = Some(Yaml::Map(vec![("plugins".to_owned(), plugins)]));
                continue;
            }
            None => continue,
        };
        sections[section].1.push((name, yaml));
    }
    let mut out = String::new();
    if let Some(defaults) = &defaults {
        defaults.mapping(&mut out, "defaults");
    }
    for (section, mut items) in sections {
        if items.is_empty() {
            continue;
        }
        items.sort_by(|one, other| one.0.cmp(other.0));
        let items: Vec<Yaml> = items.into_iter().map(|(_, yaml)| yaml).collect();
        Yaml::section(&mut out, section, &items);
    }
    if out.is_empty() { "routes: []\n".into() } else { out }
}

/// A mapping in the making; what is absent is left out.
#[derive(Default)]
struct Fields(Vec<(String, Yaml)>);

impl Fields {
    fn put(&mut self, key: &str, value: Option<Yaml>) {
        self.0.extend(value.map(|value| (key.to_owned(), value)));
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Some(Yaml::text(text)));
    }

    fn number(&mut self, key: &str, number: Option<u32>) {
        self.put(key, number.map(|number| Yaml::Scalar(number.to_string())));
    }

    fn boolean(&mut self, key: &str, value: Option<bool>) {
        self.put(key, value.map(|value| Yaml::Scalar(value.to_string())));
    }

    fn duration(&mut self, key: &str, milliseconds: Option<u64>) {
        self.put(key, milliseconds.map(|value| Yaml::Scalar(duration::write(value))));
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        self.put(key, (!texts.is_empty()).then(|| list(texts)));
    }

    fn map(self) -> Yaml {
        Yaml::Map(self.0)
    }
}

fn list(texts: &[String]) -> Yaml {
    Yaml::List(texts.iter().map(|text| Yaml::text(text)).collect())
}

fn certificate(certificate: &wire::Certificate) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &certificate.name);
    fields.put("certificate", Some(Yaml::long_text(&certificate.chain)));
    fields.put("key", certificate.key.as_ref().map(secret));
    fields.map()
}

fn secret(secret: &wire::Secret) -> Yaml {
    use wire::secret::Form;
    match &secret.form {
        Some(Form::Fingerprint(fingerprint)) => single("sealed", fingerprint),
        // Whoever has the secret itself does not write it down.
        Some(Form::Clear(_) | Form::Sealed(_)) | None => single("sealed", "unknown"),
    }
}

fn consumer(consumer: &wire::Consumer) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &consumer.name);
    fields.texts("groups", &consumer.groups);
    let keys = consumer.api_keys_sha256.iter().map(|hash| {
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        single("sha256", &hex)
    });
    let keys: Vec<_> = keys.collect();
    fields.put("api_keys", (!keys.is_empty()).then_some(Yaml::List(keys)));
    let mut credentials: Vec<_> = consumer.basic_auth.iter().map(basic_credential).collect();
    let credentials = match credentials.len() {
        0 => None,
        1 => credentials.pop(),
        _ => Some(Yaml::List(credentials)),
    };
    fields.put("basic_auth", credentials);
    fields.map()
}

fn basic_credential(credential: &wire::BasicCredential) -> Yaml {
    use wire::password::Form;
    let mut fields = Fields::default();
    fields.text("username", &credential.username);
    let password = match credential.password.as_ref().and_then(|password| password.form.as_ref()) {
        Some(Form::Hash(hash)) => single("hash", hash),
        // Whoever has the password itself does not write it down.
        Some(Form::Clear(_)) | None => single("hash", "unknown"),
    };
    fields.put("password", Some(password));
    fields.map()
}

fn listener(listener: &wire::Listener) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &listener.name);
    fields.text("address", &listener.address);
    fields.put("tls", listener.tls.as_ref().map(listener_tls));
    fields.texts("plugins", &listener.plugins);
    fields.map()
}

fn listener_tls(tls: &wire::ListenerTls) -> Yaml {
    let mut fields = Fields::default();
    fields.texts("certificates", &tls.certificates);
    fields.put(
        "min_version",
        tls.min_version.map(|_| match tls.min_version() {
            wire::TlsVersion::TlsVersion13 => Yaml::text("1.3"),
            wire::TlsVersion::TlsVersion12 | wire::TlsVersion::Unspecified => Yaml::text("1.2"),
        }),
    );
    fields.texts("alpn", &tls.alpn);
    let client_auth = |auth: &wire::ClientAuth| {
        let mut fields = Fields::default();
        fields.text(
            "mode",
            match auth.mode() {
                wire::client_auth::Mode::Optional => "optional",
                wire::client_auth::Mode::Required | wire::client_auth::Mode::Unspecified => "required",
            },
        );
        fields.put("ca", Some(Yaml::long_text(&auth.ca)));
        fields.put("crl", auth.crl.as_deref().map(Yaml::long_text));
        fields.map()
    };
    fields.put("client_auth", tls.client_auth.as_ref().map(client_auth));
    fields.map()
}

fn backend(backend: &wire::Backend) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &backend.name);
    fields.put("endpoints", Some(Yaml::List(backend.endpoints.iter().map(endpoint).collect())));
    fields.put(
        "protocol",
        backend.protocol.map(|_| {
            Yaml::text(match backend.protocol() {
                wire::Protocol::Http1 => "http1",
                wire::Protocol::H2 => "h2",
                wire::Protocol::H2c => "h2c",
                wire::Protocol::Auto | wire::Protocol::Unspecified => "auto",
            })
        }),
    );
    fields.put("tls", backend.tls.as_ref().map(backend_tls));
    fields.put("load_balancing", backend.load_balancing.as_ref().map(balancing));
    fields.put("health_check", backend.health_check.as_ref().map(health));
    fields.put("outlier_detection", backend.outlier_detection.as_ref().map(outlier_detection));
    fields.number("panic_threshold", backend.panic_threshold);
    fields.put("limits", backend.limits.as_ref().map(limits));
    fields.put("retry_budget", backend.retry_budget.as_ref().map(retry_budget));
    fields.texts("plugins", &backend.plugins);
    fields.map()
}

fn backend_tls(tls: &wire::BackendTls) -> Yaml {
    let mut fields = Fields::default();
    fields.put("ca", tls.ca.as_ref().map(|ca| Yaml::long_text(ca)));
    fields.put("server_name", tls.server_name.as_ref().map(|name| Yaml::text(name)));
    fields.put("client_certificate", tls.client_certificate.as_ref().map(|name| Yaml::text(name)));
    fields.put("insecure_skip_verify", tls.insecure_skip_verify.then(|| Yaml::Scalar("true".into())));
    fields.map()
}

fn endpoint(endpoint: &wire::Endpoint) -> Yaml {
    let mut fields = Fields::default();
    fields.text("url", &endpoint.url);
    fields.number("weight", endpoint.weight);
    fields.map()
}

fn balancing(balancing: &wire::LoadBalancing) -> Yaml {
    use wire::load_balancing::Policy;
    let mut fields = Fields::default();
    let policy = match balancing.policy() {
        Policy::Unspecified => None,
        Policy::RoundRobin => Some("round_robin"),
        Policy::LeastRequest => Some("least_request"),
        Policy::PeakEwma => Some("peak_ewma"),
        Policy::ConsistentHash => Some("consistent_hash"),
    };
    fields.put("policy", policy.map(Yaml::text));
    fields.put("hash_on", balancing.hash_on.as_ref().map(hash_on));
    fields.number("balance_factor", balancing.balance_factor);
    fields.put("sticky", balancing.sticky.as_ref().map(sticky));
    fields.duration("slow_start", balancing.slow_start_ms);
    fields.map()
}

fn hash_on(on: &wire::HashOn) -> Yaml {
    use wire::hash_on::Kind;
    match &on.kind {
        Some(Kind::Header(name)) => single("header", name),
        Some(Kind::Cookie(name)) => single("cookie", name),
        Some(Kind::ClientIp(_)) => Yaml::text("client_ip"),
        Some(Kind::Path(_)) => Yaml::text("path"),
        None => Yaml::Map(Vec::new()),
    }
}

fn sticky(sticky: &wire::Sticky) -> Yaml {
    use wire::sticky::SameSite;
    let mut fields = Fields::default();
    fields.text("cookie", &sticky.cookie);
    fields.duration("ttl", sticky.ttl_ms);
    fields.put("path", sticky.path.as_deref().map(Yaml::text));
    fields.boolean("secure", sticky.secure);
    fields.boolean("http_only", sticky.http_only);
    let site = match sticky.same_site() {
        SameSite::Unspecified => None,
        SameSite::Lax => Some("lax"),
        SameSite::Strict => Some("strict"),
        SameSite::None => Some("none"),
    };
    fields.put("same_site", site.map(Yaml::text));
    fields.map()
}

fn health(check: &wire::HealthCheck) -> Yaml {
    use wire::health_check::Type;
    let mut fields = Fields::default();
    let kind = match check.r#type() {
        Type::Unspecified => None,
        Type::Http => Some("http"),
        Type::Tcp => Some("tcp"),
        Type::Grpc => Some("grpc"),
    };
    fields.put("type", kind.map(Yaml::text));
    if !check.path.is_empty() || matches!(check.r#type(), Type::Unspecified | Type::Http) {
        fields.text("path", &check.path);
    }
    fields.put("host", check.host.as_deref().map(Yaml::text));
    let statuses: Vec<_> = check.statuses.iter().map(|status| Yaml::Scalar(status.to_string())).collect();
    fields.put("statuses", (!statuses.is_empty()).then_some(Yaml::List(statuses)));
    let headers: Vec<_> =
        check.headers.iter().map(|header| (quoted(&header.name), Yaml::text(&header.value))).collect();
    fields.put("headers", (!headers.is_empty()).then_some(Yaml::Map(headers)));
    fields.put("service", check.service.as_deref().map(Yaml::text));
    fields.duration("interval", check.interval_ms);
    fields.duration("timeout", check.timeout_ms);
    fields.number("healthy_threshold", check.healthy_threshold);
    fields.number("unhealthy_threshold", check.unhealthy_threshold);
    fields.map()
}

fn outlier_detection(detection: &wire::OutlierDetection) -> Yaml {
    let mut fields = Fields::default();
    fields.number("consecutive_5xx", detection.consecutive_5xx);
    fields.number("consecutive_gateway_errors", detection.consecutive_gateway_errors);
    fields.duration("base_ejection_time", detection.base_ejection_time_ms);
    fields.duration("max_ejection_time", detection.max_ejection_time_ms);
    fields.number("max_ejected_percent", detection.max_ejected_percent);
    fields.map()
}

fn limits(limits: &wire::Limits) -> Yaml {
    let mut fields = Fields::default();
    fields.number("connections", limits.connections);
    fields.number("pending", limits.pending);
    fields.number("requests", limits.requests);
    fields.duration("pending_timeout", limits.pending_timeout_ms);
    fields.map()
}

fn retry_budget(budget: &wire::RetryBudget) -> Yaml {
    let mut fields = Fields::default();
    fields.number("percent", budget.percent);
    fields.number("min_per_second", budget.min_per_second);
    fields.map()
}

fn plugin(plugin: &wire::Plugin) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &plugin.name);
    fields.text("type", &plugin.r#type);
    fields.boolean("enabled", plugin.enabled);
    if plugin.config_json != "{}" {
        // What is no JSON was not made here; it is shown as it is.
        let config = serde_json::from_str(&plugin.config_json).map(|value| json(&value, &plugin.secrets));
        fields.put("config", Some(config.unwrap_or_else(|_| Yaml::text(&plugin.config_json))));
    }
    fields.map()
}

/// The parser of JSON bounds how deep this recurses.
fn json(value: &serde_json::Value, secrets: &[wire::Secret]) -> Yaml {
    match value {
        serde_json::Value::String(text) => Yaml::long_text(text),
        serde_json::Value::Array(items) => Yaml::List(items.iter().map(|item| json(item, secrets)).collect()),
        serde_json::Value::Object(entries) => {
            let index = entries.get(SECRET).and_then(serde_json::Value::as_u64);
            let index = index.and_then(|index| usize::try_from(index).ok());
            match index.and_then(|index| secrets.get(index)) {
                Some(hidden) => secret(hidden),
                None => Yaml::Map(entries.iter().map(|(key, value)| (quoted(key), json(value, secrets))).collect()),
            }
        }
        scalar => Yaml::Scalar(scalar.to_string()),
    }
}

fn route(route: &wire::Route) -> Yaml {
    let mut fields = Fields::default();
    fields.text("name", &route.name);
    fields.texts("listeners", &route.listeners);
    match route.hosts.as_slice() {
        [host] => fields.text("host", host),
        hosts => fields.texts("hosts", hosts),
    }
    match route.rules.as_slice() {
        [only] => rule(&mut fields, only),
        rules => {
            let each = |one: &wire::Rule| {
                let mut fields = Fields::default();
                rule(&mut fields, one);
                fields.map()
            };
            fields.put("rules", Some(Yaml::List(rules.iter().map(each).collect())));
        }
    }
    fields.map()
}

fn rule(fields: &mut Fields, rule: &wire::Rule) {
    match rule.matches.as_slice() {
        [] => {}
        // Written flat, it would be no match at all.
        [only] if *only != wire::Match::default() => conditions(fields, only),
        matches => {
            let each = |one: &wire::Match| {
                let mut fields = Fields::default();
                conditions(&mut fields, one);
                fields.map()
            };
            fields.put("matches", Some(Yaml::List(matches.iter().map(each).collect())));
        }
    }
    let backend = match rule.backends.as_slice() {
        [only] => backend_ref(only),
        backends => Yaml::List(backends.iter().map(backend_ref).collect()),
    };
    fields.put("backend", Some(backend));
    fields.put("sticky_split", rule.sticky_split.as_ref().map(hash_on));
    fields.boolean("strip_prefix", rule.strip_prefix);
    if let Some(timeouts) = &rule.timeouts {
        let total = wire::Timeouts { total_ms: timeouts.total_ms, ..wire::Timeouts::default() };
        if *timeouts == total {
            fields.duration("timeout", timeouts.total_ms);
        } else {
            let mut all = Fields::default();
            all.duration("connect", timeouts.connect_ms);
            all.duration("per_try", timeouts.per_try_ms);
            all.duration("total", timeouts.total_ms);
            all.duration("idle", timeouts.idle_ms);
            fields.put("timeouts", Some(all.map()));
        }
    }
    fields.put("retry", rule.retry.as_ref().map(retry));
    fields.texts("plugins", &rule.plugins);
}

fn conditions(fields: &mut Fields, conditions: &wire::Match) {
    use wire::path_match::Kind;
    fields.put(
        "path",
        conditions.path.as_ref().and_then(|path| path.kind.as_ref()).map(|path| match path {
            Kind::Prefix(prefix) => Yaml::text(prefix),
            Kind::Exact(exact) => single("exact", exact),
            Kind::Regex(regex) => single("regex", regex),
        }),
    );
    match conditions.methods.as_slice() {
        [method] => fields.text("method", method),
        methods => fields.texts("method", methods),
    }
    for (key, values) in [("headers", &conditions.headers), ("query", &conditions.query)] {
        let entries: Vec<_> = values.iter().map(|value| (quoted(&value.name), value_match(value))).collect();
        fields.put(key, (!entries.is_empty()).then_some(Yaml::Map(entries)));
    }
}

fn value_match(condition: &wire::ValueMatch) -> Yaml {
    match &condition.kind {
        Some(wire::value_match::Kind::Exact(exact)) => Yaml::text(exact),
        Some(wire::value_match::Kind::Regex(regex)) => single("regex", regex),
        None => Yaml::Map(Vec::new()),
    }
}

fn single(key: &str, text: &str) -> Yaml {
    let mut fields = Fields::default();
    fields.text(key, text);
    fields.map()
}

fn backend_ref(backend: &wire::BackendRef) -> Yaml {
    use wire::backend_ref::Target;
    let bare = backend.weight.is_none() && backend.plugins.is_empty();
    let (key, target) = match &backend.target {
        Some(Target::Name(name)) => ("name", name.as_str()),
        Some(Target::Url(url)) => ("url", url.as_str()),
        None => ("name", ""),
    };
    // As a bare string, "://" is what tells a URL from a name.
    if bare && (key == "url") == target.contains("://") {
        return Yaml::text(target);
    }
    let mut fields = Fields::default();
    fields.text(key, target);
    fields.number("weight", backend.weight);
    fields.texts("plugins", &backend.plugins);
    fields.map()
}

fn retry(retry: &wire::Retry) -> Yaml {
    let mut fields = Fields::default();
    fields.number("attempts", retry.attempts);
    let words = [("connect", retry.on_connect), ("reset", retry.on_reset), ("timeout", retry.on_timeout)];
    let words = words.into_iter().filter(|(_, on)| *on).map(|(word, _)| Yaml::text(word));
    let statuses = retry.on_statuses.iter().map(|status| Yaml::Scalar(status.to_string()));
    let causes: Vec<_> = words.chain(statuses).collect();
    // Without causes it is for the usual ones.
    fields.put("on", (!causes.is_empty()).then_some(Yaml::List(causes)));
    let mut backoff = Fields::default();
    backoff.duration("base", retry.backoff_base_ms);
    backoff.duration("max", retry.backoff_max_ms);
    fields.put("backoff", (!backoff.0.is_empty()).then(|| backoff.map()));
    fields.duration("retry_after_max", retry.retry_after_max_ms);
    fields.map()
}
