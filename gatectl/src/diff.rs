//! What a change does, as a person reads it: a line for each resource, and the lines of YAML that differ.

use std::{fmt::Write as _, time::Duration};

use rustygate_control_plane::manifest;
use rustygate_proto::v1 as wire;
use similar::{ChangeTag, TextDiff};

use crate::output::{Paint, escape};

/// Lines around a difference.
const CONTEXT_LINES: usize = 3;

/// For one resource; beyond it the difference is right but not the shortest.
const DIFF_TIME_MAX: Duration = Duration::from_millis(200);

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is new.
    Created,
    /// It gets a new content.
    Updated,
    /// It goes.
    Deleted,
}

impl Action {
    /// What a difference does.
    pub(crate) fn of(diff: &wire::ResourceDiff) -> Self {
        match (&diff.before, &diff.after) {
            (None, _) => Self::Created,
            (Some(_), Some(_)) => Self::Updated,
            (Some(_), None) => Self::Deleted,
        }
    }

    /// As JSON has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// How many of each.
pub(crate) fn tally(diff: &[wire::ResourceDiff]) -> String {
    let of = |action| diff.iter().filter(|resource| Action::of(resource) == action).count();
    format!("{} created, {} updated, {} deleted", of(Action::Created), of(Action::Updated), of(Action::Deleted))
}

/// The differences; the YAML of the first `shown_max`, and only a line for each of the others.
pub(crate) fn render(diff: &[wire::ResourceDiff], shown_max: usize, paint: Paint) -> String {
    let mut text = String::new();
    for (index, resource) in diff.iter().enumerate() {
        let title = format!("{} {}", resource.kind().noun(), escape(&resource.name));
        let title = match Action::of(resource) {
            Action::Created => paint.green(&format!("+ {title}")),
            Action::Updated => paint.yellow(&format!("~ {title}")),
            Action::Deleted => paint.red(&format!("- {title}")),
        };
        text.push_str(&title);
        text.push('\n');
        if index < shown_max {
            lines(&yaml(resource.before.as_ref()), &yaml(resource.after.as_ref()), paint, &mut text);
        }
    }
    if diff.len() > shown_max {
        let _ = writeln!(text, "{}", paint.dim("(the lines of many are left out; `gatectl diff -f` shows them)"));
    }
    text
}

/// The differences as JSON.
pub(crate) fn json(diff: &[wire::ResourceDiff]) -> serde_json::Value {
    let entry = |resource: &wire::ResourceDiff| {
        serde_json::json!({
            "action": Action::of(resource).word(),
            "kind": resource.kind().noun(),
            "name": resource.name,
            "before": resource.before.as_ref().map(|before| yaml(Some(before))),
            "after": resource.after.as_ref().map(|after| yaml(Some(after))),
        })
    };
    diff.iter().map(entry).collect()
}

fn yaml(resource: Option<&wire::Resource>) -> String {
    resource.map(|resource| manifest::to_yaml(std::slice::from_ref(resource))).unwrap_or_default()
}

fn lines(before: &str, after: &str, paint: Paint, text: &mut String) {
    let diff = TextDiff::configure().timeout(DIFF_TIME_MAX).diff_lines(before, after);
    for (index, group) in diff.grouped_ops(CONTEXT_LINES).iter().enumerate() {
        if index > 0 {
            text.push_str("    ...\n");
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let line = escape(change.value().trim_end_matches(['\r', '\n']));
            let line = match change.tag() {
                ChangeTag::Insert => paint.green(&format!("  + {line}")),
                ChangeTag::Delete => paint.red(&format!("  - {line}")),
                ChangeTag::Equal => format!("    {line}"),
            };
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { on: false };

    fn change(name: &str, before: bool, after: bool) -> wire::ResourceDiff {
        let resource = || {
            let route = wire::Route { name: name.to_owned(), ..wire::Route::default() };
            wire::Resource { kind: Some(wire::resource::Kind::Route(route)) }
        };
        wire::ResourceDiff {
            kind: wire::Kind::Route.into(),
            name: name.to_owned(),
            before: before.then(resource),
            after: after.then(resource),
        }
    }

    #[test]
    fn only_the_lines_around_a_difference_are_shown() {
        let before = "routes:\n- name: a\n  hosts:\n  - x\n  path: /a\n  backend: b\n  timeout: 5s\n";
        let after = before.replace("5s", "7s");
        let mut text = String::new();
        lines(before, &after, PLAIN, &mut text);
        insta::assert_snapshot!(text, @"
              - x
              path: /a
              backend: b
          -   timeout: 5s
          +   timeout: 7s
        ");
    }

    #[test]
    fn the_lines_of_many_resources_are_left_out_but_each_is_named() {
        let diff = [change("a", false, true), change("b\x07", true, true), change("c", true, false)];
        insta::assert_snapshot!(render(&diff, 0, PLAIN), @r"
        + route a
        ~ route b\u{7}
        - route c
        (the lines of many are left out; `gatectl diff -f` shows them)
        ");
        assert_eq!(tally(&diff), "1 created, 1 updated, 1 deleted");
    }
}
