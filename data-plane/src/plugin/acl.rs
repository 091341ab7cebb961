//! `acl`: lets consumers through by their groups.

use std::collections::HashSet;

use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::snapshot::fault::Faults;

const GROUPS: Kind = Kind::List(&Kind::Text { max: 128 }, 1000);

pub(super) static DENIED: Reason = Reason {
    name: "acl_denied",
    status: 403,
    detail: "this consumer may not ask for this",
    when: "The consumer has a group in `deny`, or none in `allow`, or it is not known who asks",
};

pub(super) static SPEC: Spec = Spec {
    name: "acl",
    summary: "Lets consumers through by their groups.",
    details: "It comes after `jwt`, `api_key` and `basic_auth`, one of which must be there to know who asks; nobody's requests are \
refused. Whoever has a group in `deny` is refused, whatever other groups it has.",
    keys: &[
        Key::new("allow", GROUPS, "every consumer", "Whoever has none of these groups is refused"),
        Key::new("deny", GROUPS, "nobody", "Whoever has one of these groups is refused"),
    ],
    example: "allow: [partners, staff]\ndeny: [suspended]",
    reasons: &[&DENIED],
};

#[derive(Debug)]
pub(super) struct Acl {
    allow: Option<HashSet<Box<str>>>,
    deny: HashSet<Box<str>>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Acl {
    if !config.has("allow") && !config.has("deny") {
        config.fault_here("there is neither \"allow\" nor \"deny\"", "give at least one of them", faults);
    }
    let groups = |key: &str| config.texts(key).into_iter().map(Into::into).collect();
    Acl { allow: config.has("allow").then(|| groups("allow")), deny: groups("deny") }
}

impl Acl {
    pub fn on_request(&self, request: &PluginRequest<'_>) -> Flow {
        let Some(consumer) = &request.facts.consumer else { return Refusal::new(&DENIED).into() };
        let has_one = |groups: &HashSet<Box<str>>| consumer.groups.iter().any(|group| groups.contains(group));
        let allowed = self.allow.as_ref().is_none_or(has_one) && !has_one(&self.deny);
        if allowed { Flow::Continue } else { Refusal::new(&DENIED).into() }
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{Consumer, rig::Rig, tests::fields_at_fault};

    #[tokio::test]
    async fn groups_decide_and_deny_is_stronger() {
        for (config, groups, passes) in [
            (r#"{"allow": ["a", "b"]}"#, Some(&["b"][..]), true),
            (r#"{"allow": ["a", "b"]}"#, Some(&["c"]), false),
            (r#"{"allow": ["a"]}"#, Some(&["A"]), false),
            (r#"{"allow": ["a"]}"#, Some(&[]), false),
            (r#"{"allow": []}"#, Some(&["a"]), false),
            (r#"{"allow": ["a"], "deny": ["x"]}"#, Some(&["a", "x"]), false),
            (r#"{"deny": ["x"]}"#, Some(&["a"]), true),
            (r#"{"deny": ["x"]}"#, Some(&[]), true),
            (r#"{"deny": ["x"]}"#, None, false),
        ] {
            let mut rig = Rig::new("acl", config);
            rig.facts.consumer = groups.map(|groups| Consumer {
                name: "c".into(),
                groups: groups.iter().collect(),
                ..Consumer::default()
            });
            assert_eq!(rig.refusal().await, if passes { "" } else { "acl_denied" }, "{config}, {groups:?}");
        }
        assert_eq!(fields_at_fault("acl", "{}"), ["config"]);
    }
}
