//! `api_key`: lets consumers through by a key.

use super::{
    Consumer, Flow, PluginRequest, Reason, Refusal, Spec,
    caller::{self, Places},
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    consumer::{self, KEY_BYTES_MAX},
    snapshot::fault::Faults,
};

const NAME: Kind = Kind::Text { max: 256 };

/// Where a key is when the configuration does not say.
const HEADER: &str = "X-API-Key";

pub(super) static MISSING: Reason = Reason {
    name: "key_missing",
    status: 401,
    detail: "an API key is required",
    when: "There is no key where one is looked for",
};

pub(super) static INVALID: Reason =
    Reason { name: "key_invalid", status: 401, detail: "the API key is not valid", when: "No consumer has this key" };

pub(super) static SPEC: Spec = Spec {
    name: "api_key",
    summary: "Lets consumers through by a key.",
    details: "The keys are those of the [consumers](../manifest.md#consumer); at rest there are only their SHA-256. Upstreams are \
told who asks in `X-Consumer-Name` and `X-Consumer-Groups`, in which clients can say nothing themselves; the key does not \
go on to them unless `hide` is false. Prefer a header to a query: queries are in everyone's logs.\n\n\
Of several plugins that find out who asks, the first that knows settles it: with `optional` on all but the last, a request needs \
one credential of any of them. A wrong one is refused even then. Once it is known who asks, keys are not looked at any more, and \
do not go on all the same.",
    keys: &[
        Key::new(
            "header",
            Kind::AnyFieldName,
            "X-API-Key, if neither `query` nor `cookie` is there",
            "The header that has it",
        ),
        Key::new("query", NAME, "", "The parameter of the query that has it"),
        Key::new("cookie", NAME, "", "The cookie that has it"),
        Key::new("optional", Kind::Bool, "false", "Whether requests without a key go on, as nobody's"),
        Key::new("hide", Kind::Bool, "true", "Whether keys are removed from the request, wherever one is looked for"),
    ],
    example: "header: X-API-Key\noptional: false",
    reasons: &[&MISSING, &INVALID, &caller::REPEATED],
};

#[derive(Debug)]
pub(super) struct ApiKey {
    places: Places,
    optional: bool,
    hide: bool,
}

pub(super) fn compile(config: &Config<'_>, _: &mut Faults) -> ApiKey {
    ApiKey { places: Places::read(config, HEADER), optional: config.bool("optional"), hide: config.bool("hide") }
}

impl ApiKey {
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        if request.facts.consumer.is_some() {
            self.hide(request);
            return Flow::Continue;
        }
        caller::forget(request.fields);
        let known = match self.places.find(request, KEY_BYTES_MAX, whole) {
            Err(repeated) => return repeated.into(),
            Ok(None) if self.optional => return Flow::Continue,
            Ok(None) => return refused(&MISSING),
            Ok(Some(key)) => request.named.consumers.as_deref().and_then(|all| all.by_key(&key)),
        };
        let Some(known) = known else { return refused(&INVALID) };
        let consumer = Consumer::from_known(known, SPEC.name);
        self.hide(request);
        caller::is_known(consumer, request.fields, request.facts);
        Flow::Continue
    }

    /// No upstream gets to see a key, be it one that was looked at or not.
    fn hide(&self, request: &mut PluginRequest<'_>) {
        if self.hide {
            self.places.hide(request.fields, whole);
            self.places.hide_in_query(request);
        }
    }
}

/// A key is all of its header.
fn whole<'v>(_: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    Some(value)
}

/// With what RFC 9110 section 11.6.1 asks for with a 401.
fn refused(reason: &'static Reason) -> Flow {
    Refusal::new(reason).field("WWW-Authenticate", b"Key realm=\"api\"").into()
}

impl Consumer {
    /// One of the configuration.
    pub(super) fn from_known(known: &consumer::Consumer, by: &'static str) -> Self {
        let (name, groups) = (known.name.clone(), known.groups.clone());
        Self { name, groups, by, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{rig::Rig, tests::lines};

    const ALICE: &str = "alice-0123456789-key";
    const BOB: &str = "bob-0123456789-secret";

    fn rig(config: &str) -> Rig {
        let mut rig = Rig::new("api_key", config);
        rig.consumer("alice", &["users", "admins"], &[ALICE]).consumer("bob", &[], &[BOB]);
        rig
    }

    #[tokio::test]
    async fn a_key_says_who_asks_and_goes_no_further() {
        let mut rig = rig("{}");
        rig.field("X-Api-Key", ALICE).field("X_API_Key", "other").field("Accept", "*/*");
        rig.field("X-Consumer-Name", "root").field("x_consumer_groups", "root");
        assert_eq!(rig.refusal().await, "");
        let told = ["Accept: */*", "X-Consumer-Name: alice", "X-Consumer-Groups: users,admins"];
        assert_eq!(lines(&rig.fields), told);
        let consumer = rig.facts.consumer.expect("a consumer");
        assert_eq!((&*consumer.name, consumer.groups.as_str(), consumer.by), ("alice", "users,admins", "api_key"));
    }

    #[tokio::test]
    async fn who_has_no_key_or_a_wrong_one_is_refused() {
        let long = "k".repeat(5000);
        for (key, refusal) in [
            (None, "key_missing"),
            (Some(""), "key_invalid"),
            (Some("alice-0123456789-kex"), "key_invalid"),
            (Some("alice-0123456789-key "), ""),
            (Some(long.as_str()), "key_invalid"),
        ] {
            for optional in [false, true] {
                let mut rig = rig(&format!(r#"{{"optional": {optional}}}"#));
                rig.field("X-Consumer-Name", "root");
                if let Some(key) = key {
                    rig.field("X-API-Key", key.trim());
                }
                let expected = if key.is_none() && optional { "" } else { refusal };
                assert_eq!(rig.refusal().await, expected, "{key:?}, optional: {optional}");
                assert!(!lines(&rig.fields).iter().any(|line| line.contains("root")), "a client cannot say who it is");
            }
        }
        let mut rig = rig("{}");
        let Some(crate::plugin::Flow::Refuse(refusal)) = rig.ask().await else { panic!("it is refused") };
        assert_eq!(lines(&refusal.fields), ["WWW-Authenticate: Key realm=\"api\""]);
        assert_eq!(refusal.status, 401);
    }

    #[tokio::test]
    async fn a_key_is_found_where_the_configuration_says_and_nowhere_else() {
        for (config, place, found) in [
            (r#"{"query": "key"}"#, "query", true),
            (r#"{"cookie": "key"}"#, "cookie", true),
            (r#"{"header": "Authorization-Key", "query": "key"}"#, "header", true),
            (r#"{"header": "Authorization-Key", "query": "key"}"#, "query", true),
            (r#"{"query": "key"}"#, "header", false),
            (r#"{"cookie": "key"}"#, "query", false),
            ("{}", "cookie", false),
        ] {
            let mut rig = rig(config);
            match place {
                "query" => rig.at("a", &format!("/api?a=1&k%65y={}", BOB.replace('-', "%2D"))),
                "cookie" => drop(rig.field("Cookie", &format!("a=1; key={BOB}; b=2"))),
                _ => drop(rig.field("Authorization-Key", BOB).field("X-API-Key", BOB)),
            }
            assert_eq!(rig.refusal().await, if found { "" } else { "key_missing" }, "{config} {place}");
            if found && place == "cookie" {
                assert_eq!(lines(&rig.fields)[0], "Cookie: a=1; b=2");
            }
        }
    }

    #[tokio::test]
    async fn several_keys_are_refused_however_they_are_spread() {
        let config = r#"{"header": "X-API-Key", "query": "key", "cookie": "key"}"#;
        let mut twice = rig(config);
        twice.field("X-API-Key", ALICE).field("X-API-Key", ALICE);
        assert_eq!(twice.refusal().await, "credentials_repeated");
        let mut spread = rig(config);
        spread.field("X-API-Key", ALICE).at("a", &format!("/api?key={BOB}"));
        assert_eq!(spread.refusal().await, "credentials_repeated");
        let mut cookies = rig(config);
        cookies.field("Cookie", &format!("key={ALICE}; key={BOB}"));
        assert_eq!(cookies.refusal().await, "credentials_repeated");
        let mut query = rig(config);
        query.at("a", &format!("/api?key={ALICE}&key={BOB}"));
        assert_eq!(query.refusal().await, "credentials_repeated");
    }

    #[tokio::test]
    async fn no_key_goes_on_where_another_plugin_knew_who_asks() {
        let config = r#"{"header": "X-API-Key", "cookie": "key", "query": "key"}"#;
        for key in [ALICE, BOB, "of-nobody-0123456789"] {
            let mut rig = rig(config);
            rig.facts.consumer = Some(crate::plugin::Consumer { name: "carol".into(), ..Default::default() });
            rig.field("X-Consumer-Name", "carol").field("X_API_Key", key).field("Cookie", &format!("key={key}; a=1"));
            rig.at("a", &format!("/api?key={key}"));
            assert_eq!(rig.refusal().await, "");
            assert_eq!(lines(&rig.fields), ["X-Consumer-Name: carol", "Cookie: a=1"]);
            assert_eq!(rig.query(), None);
            assert_eq!(rig.facts.consumer.map(|consumer| consumer.name).as_deref(), Some("carol"));
        }
    }

    #[tokio::test]
    async fn a_key_in_a_query_goes_no_further_and_the_rest_of_it_does() {
        for (query, left) in [
            (format!("?key={BOB}"), None),
            (format!("?a=1&k%65y={BOB}&b=%20"), Some("a=1&b=%20")),
            (format!("?key={BOB}&a"), Some("a")),
            (format!("?a=&&key={BOB}"), Some("a=&")),
            (format!("?KEY=1&key={BOB}&keys=2"), Some("KEY=1&keys=2")),
        ] {
            let mut rig = rig(r#"{"query": "key"}"#);
            rig.at("a", &format!("/api{query}"));
            assert_eq!(rig.refusal().await, "", "{query}");
            assert_eq!(rig.query(), left, "{query}");
        }
        let mut rig = rig(r#"{"query": "key", "hide": false}"#);
        rig.at("a", &format!("/api?key={BOB}"));
        assert_eq!((rig.refusal().await, rig.query()), ("", Some(&*format!("key={BOB}"))));
    }

    #[tokio::test]
    async fn a_key_goes_on_if_it_is_not_to_be_hidden() {
        let mut rig = rig(r#"{"hide": false}"#);
        assert_eq!(rig.field("X-API-Key", BOB).refusal().await, "");
        assert_eq!(lines(&rig.fields), [format!("X-API-Key: {BOB}"), "X-Consumer-Name: bob".to_owned()]);
    }
}
