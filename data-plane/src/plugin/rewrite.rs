//! `rewrite`: asks the backend for something else than the client asked for.

use super::{
    Flow, PluginRequest, Reason, Refusal, Rewrite as Rewritten, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{canonical, snapshot::fault::Faults};

const PATH: Kind = Kind::Text { max: 4096 };

pub(super) static REGEX: [Key; 2] = [
    Key::required("match", Kind::Regex, "What is replaced; anchored only by what it says itself"),
    Key::required("replace", PATH, "By what; `$1` or `${name}` stand for its groups, `$$` for a dollar"),
];

pub(super) static FAILED: Reason = Reason {
    name: "rewrite_failed",
    status: 400,
    detail: "the path of the request cannot be rewritten",
    when: "What a rewrite makes of a path is none in canonical form: it has a dot segment, a question mark, an encoded slash",
};

pub(super) static SPEC: Spec = Spec {
    name: "rewrite",
    summary: "Asks the backend for something else than the client asked for.",
    details: "Routes are matched before: a rewrite changes what the backend sees, not where a request goes. With \
a new path `strip_prefix` has no effect; the result comes behind the base path of the endpoint's URL. What it makes of a path must be in canonical form, without \
dot segments, or the request is refused: nobody gets out of the path that a route is meant for. The query stays. \
`X-Forwarded-Host` tells the host that the client asked for.",
    keys: &[
        Key::new("prefix", PATH, "", "What stands in the place of the route's prefix"),
        Key::new("path", PATH, "", "The whole path"),
        Key::new("regex", Kind::Object(&REGEX), "", "Replaces every match of a regex in the canonical path"),
        Key::new("host", Kind::Text { max: 259 }, "", "The host, with a port if need be"),
    ],
    example: "regex: {match: \"^/users/([0-9]+)/\", replace: \"/v2/accounts/$1/\"}\nhost: accounts.internal",
    reasons: &[&FAILED],
};

/// What becomes of a path.
#[derive(Debug)]
pub(super) enum PathChange {
    /// Canonical, without a slash at the end.
    Prefix(Box<str>),
    /// Canonical.
    Whole(Box<str>),
    Regex(Box<regex::Regex>, Box<str>),
}

impl PathChange {
    /// What the keys `prefix`, `path` and `regex` say, as far as the type has them; one of them at most.
    pub fn compile(config: &Config<'_>, faults: &mut Faults) -> Option<Self> {
        let given: Vec<&str> = ["path", "prefix", "regex"].into_iter().filter(|key| config.has(key)).collect();
        if let [first, second, ..] = *given {
            config.fault(second, format_args!("{second:?} and {first:?} exclude each other"), "keep one", faults);
            return None;
        }
        if config.has("regex") {
            let regex = config.child("regex")?;
            let replace = regex.text("replace")?;
            if replace.contains(['?', '#']) {
                regex.fault("replace", "a path has neither a query nor a fragment", "leave out ? and #", faults);
            }
            return Some(Self::Regex(Box::new(regex.regex("match")?), replace.into()));
        }
        let key = *given.first()?;
        let text = config.text(key)?;
        match canonical::path(text.as_bytes()) {
            Ok(path) if *path == *text && key == "path" => Some(Self::Whole(text.into())),
            Ok(path) if *path == *text => Some(Self::Prefix(text.trim_end_matches('/').into())),
            Ok(path) => {
                config.fault(key, "the path is not in canonical form", &format!("write it as {path}"), faults);
                None
            }
            Err(problem) => {
                config.fault(key, problem, "", faults);
                None
            }
        }
    }

    /// The path of a request after it; `None` if that has no canonical form.
    pub fn apply(&self, request: &PluginRequest<'_>) -> Option<String> {
        let path = &*request.target.path;
        let changed = match self {
            Self::Whole(whole) => return Some(whole.to_string()),
            Self::Prefix(prefix) => {
                let rest = path.get(request.prefix..).unwrap_or_default();
                let changed = if rest.starts_with('/') || rest.is_empty() {
                    format!("{prefix}{rest}")
                } else {
                    format!("{prefix}/{rest}")
                };
                if changed.is_empty() { "/".to_owned() } else { changed }
            }
            Self::Regex(regex, replace) => regex.replace_all(path, &**replace).into_owned(),
        };
        let has_dots = changed.split('/').any(|segment| {
            let name = segment.split(';').next().unwrap_or_default().replace("%2e", ".").replace("%2E", ".");
            name == "." || name == ".."
        });
        if has_dots {
            return None;
        }
        canonical::path(changed.as_bytes()).ok().map(std::borrow::Cow::into_owned)
    }
}

#[derive(Debug)]
pub(super) struct Rewrite {
    path: Option<PathChange>,
    host: Option<Box<str>>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Rewrite {
    if !["prefix", "path", "regex", "host"].into_iter().any(|key| config.has(key)) {
        config.fault_here("there is nothing to rewrite", "give one of: prefix, path, regex, host", faults);
    }
    let host = config.text("host").and_then(|text| match canonical::host(text.as_bytes()) {
        Ok(host) => Some(match host.port {
            Some(port) => format!("{}:{port}", host.name).into(),
            None => host.name.as_ref().into(),
        }),
        Err(problem) => {
            config.fault("host", problem, "", faults);
            None
        }
    });
    Rewrite { path: PathChange::compile(config, faults), host }
}

impl Rewrite {
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        let path = match self.path.as_ref().map(|change| change.apply(request)) {
            None => None,
            Some(Some(path)) => Some(path),
            Some(None) => return Refusal::new(&FAILED).into(),
        };
        let rewritten: &mut Rewritten = request.facts.rewrite.get_or_insert_default();
        rewritten.path = path.or(rewritten.path.take());
        rewritten.host = self.host.as_deref().map(str::to_owned).or(rewritten.host.take());
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{rig::Rig, tests::fields_at_fault};

    async fn path(config: &str, target: &str) -> Result<String, &'static str> {
        let mut rig = Rig::new("rewrite", config);
        rig.at("a.example", target);
        match rig.refusal().await {
            "" => Ok(rig.facts.rewrite.and_then(|rewrite| rewrite.path).expect("a path")),
            reason => Err(reason),
        }
    }

    #[tokio::test]
    async fn paths_are_rewritten_by_prefix_whole_or_regex() {
        for (config, target, expected) in [
            (r#"{"prefix": "/v2"}"#, "/api/users?q=1", "/v2/users"),
            (r#"{"prefix": "/v2/"}"#, "/api", "/v2"),
            (r#"{"prefix": "/"}"#, "/api", "/"),
            (r#"{"prefix": "/"}"#, "/api/", "/"),
            (r#"{"path": "/one"}"#, "/api/users", "/one"),
            (r#"{"regex": {"match": "^/api/([a-z]+)", "replace": "/v2/$1/all"}}"#, "/api/users/7", "/v2/users/all/7"),
            (r#"{"regex": {"match": "nothing", "replace": "x"}}"#, "/api/users", "/api/users"),
            (r#"{"regex": {"match": "/api", "replace": ""}}"#, "/api/users", "/users"),
        ] {
            assert_eq!(path(config, target).await.as_deref(), Ok(expected), "{config} {target}");
        }
    }

    #[tokio::test]
    async fn nobody_gets_out_by_a_rewrite() {
        for (config, target) in [
            (r#"{"regex": {"match": "x", "replace": ""}}"#, "/api/.x./admin"),
            (r#"{"regex": {"match": "x", "replace": ""}}"#, "/api/.x.;a=b/admin"),
            (r#"{"regex": {"match": "_", "replace": "%2f"}}"#, "/api/a_b"),
            (r#"{"regex": {"match": "^/api", "replace": ""}}"#, "/api"),
            (r#"{"regex": {"match": "^/api/", "replace": ""}}"#, "/api/users"),
        ] {
            assert_eq!(path(config, target).await, Err("rewrite_failed"), "{config} {target}");
        }
    }

    #[tokio::test]
    async fn a_host_is_rewritten_with_the_path_or_without() {
        let mut rig = Rig::new("rewrite", r#"{"host": "B.internal:81"}"#);
        assert!(rig.ask().await.is_none());
        let rewrite = rig.facts.rewrite.expect("a rewrite");
        assert_eq!((rewrite.host.as_deref(), rewrite.path), (Some("b.internal:81"), None));
    }

    #[test]
    fn mistakes_are_told() {
        for (config, field) in [
            ("{}", "config"),
            (r#"{"prefix": "x"}"#, "config.prefix"),
            (r#"{"prefix": "/a//b"}"#, "config.prefix"),
            (r#"{"path": "/a", "regex": {"match": "a", "replace": "b"}}"#, "config.regex"),
            (r#"{"regex": {"match": "(", "replace": "b"}}"#, "config.regex.match"),
            (r#"{"regex": {"match": "a", "replace": "b?c"}}"#, "config.regex.replace"),
            (r#"{"regex": {"match": "a"}}"#, "config.regex"),
            (r#"{"host": "a b"}"#, "config.host"),
        ] {
            let faults = match super::super::Plugin::compile(&crate::plugin::rig::message("rewrite", config)) {
                Err(faults) => faults,
                Ok(_) => panic!("{config}"),
            };
            assert_eq!(faults[0].field, field, "{config}");
        }
        assert_eq!(fields_at_fault("rewrite", r#"{"x": 1, "host": "a"}"#), ["config.x"]);
    }
}
