//! The parts of docs/ that are made from the command lines fail here when they are not what the code says.
//! `UPDATE_DOCS=1 cargo test -p gatectl --lib docs` makes them anew.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, Args, Command, CommandFactory as _};
use rustygate_control_plane as control_plane;
use rustygate_data_plane::{
    self as data_plane,
    limit::Limit,
    plugin::{
        Spec, TYPES,
        spec::{Key, Kind},
    },
};

use crate::cli::Cli;

#[test]
fn the_reference_of_gatectl_is_what_it_says_of_itself() {
    let mut text = String::new();
    // Subcommands do not have the options of every command until the whole is built: those are shown once.
    for command in Cli::command().get_subcommands() {
        describe(&format!("gatectl {}", command.get_name()), command, &mut text);
    }
    let mut whole = Cli::command().disable_help_subcommand(true);
    let _ =
        write!(text, "## Options of every command\n\n```text\n{}\n```\n", whole.render_help().to_string().trim_end());
    check("gatectl.md", "commands", &text);
}

#[test]
fn the_settings_of_the_planes_are_all_there() {
    check("settings.md", "control plane", &settings::<control_plane::settings::Settings>());
    check("settings.md", "data plane", &settings::<data_plane::settings::Settings>());
}

#[test]
fn every_limit_has_its_setting_its_default_and_its_counter() {
    let command = data_plane::settings::Settings::augment_args(Command::new("plane"));
    let mut text = "| limit | setting | default | who meets it |\n|---|---|---|---|\n".to_owned();
    for limit in Limit::ALL {
        let arg = limit.setting().map(|flag| {
            let found = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
            found.unwrap_or_else(|| panic!("no flag --{flag}"))
        });
        let (setting, default) = match arg {
            Some(arg) => {
                let value = default(arg, "").1;
                let unit = match arg.get_value_names() {
                    Some([unit]) if *unit == "SECONDS" => " s",
                    Some([unit]) if *unit == "BYTES" => " bytes",
                    _ => "",
                };
                let none =
                    if value == "`0`" { "no bound".to_owned() } else { format!("{}{unit}", value.trim_matches('`')) };
                (format!("`--{}`", limit.setting().unwrap_or_default()), none)
            }
            None => ("fixed".to_owned(), limit.fixed().unwrap_or_default()),
        };
        let _ = writeln!(text, "| `{}` | {setting} | {default} | {} |", limit.name(), limit.consequence());
    }
    check("settings.md", "limits", &text);
}

#[test]
fn every_type_of_plugin_has_its_page() {
    let mut types = "| type | what it does | page |\n|---|---|---|\n".to_owned();
    let mut refusals = "| reason | status | type | when |\n|---|---|---|---|\n".to_owned();
    for spec in TYPES {
        let name = spec.name;
        let _ = writeln!(types, "| `{name}` | {} | [{name}](plugins/{name}.md) |", spec.summary);
        for reason in spec.reasons {
            let _ = writeln!(refusals, "| `{}` | {} | `{name}` | {} |", reason.name, reason.status, reason.when);
        }
        check_whole(&format!("plugins/{name}.md"), &page(spec));
    }
    check("plugins.md", "types", &types);
    check("plugins.md", "refusals", &refusals);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plugins");
    for entry in fs::read_dir(folder).expect("the pages") {
        let name = entry.expect("an entry").file_name();
        let kind = name.to_str().and_then(|name| name.strip_suffix(".md"));
        assert!(TYPES.iter().any(|spec| kind == Some(spec.name)), "there is no such type: {}", name.display());
    }
}

/// The page of a type, from its table.
fn page(spec: &Spec) -> String {
    let mut text = format!("# {}\n\n{}", spec.name, spec.summary);
    if !spec.details.is_empty() {
        let _ = write!(text, "\n\n{}", spec.details);
    }
    let _ = write!(text, "\n\n## Configuration\n\n| key | type | default | what it is |\n|---|---|---|---|\n");
    keys(spec.keys, "", &mut text);
    let named = |line: &&str| {
        spec.keys.iter().any(|key| matches!(key.kind, Kind::Backend) && line.starts_with(&format!("{}: ", key.name)))
    };
    text.push_str("\n```yaml\n");
    if let Some((_, backend)) = spec.example.lines().find(named).and_then(|line| line.split_once(": ")) {
        let _ = writeln!(text, "backends:\n  - {{name: {backend}, endpoints: [\"http://10.0.0.7:9000\"]}}");
    }
    let _ = write!(text, "plugins:\n  - name: example\n    type: {}\n    config:\n", spec.name);
    for line in spec.example.lines() {
        let _ = writeln!(text, "      {line}");
    }
    let _ = write!(text, "```\n\n## Refusals\n\n");
    if spec.reasons.is_empty() {
        text.push_str("It refuses nothing.\n");
    } else {
        text.push_str("| reason | status | when |\n|---|---|---|\n");
        for reason in spec.reasons {
            let _ = writeln!(text, "| `{}` | {} | {} |", reason.name, reason.status, reason.when);
        }
    }
    let _ = write!(text, "\nWhere it can be named and when it runs: [plugins](../plugins.md).\n");
    text
}

/// A row for each key, those of mappings within each other by their whole paths.
fn keys(keys: &[Key], path: &str, text: &mut String) {
    for key in keys {
        let default = match key.default {
            _ if key.required => "required".to_owned(),
            "" => String::new(),
            default if default.contains(' ') || default == "none" => default.to_owned(),
            default => format!("`{default}`"),
        };
        let name = format!("{path}{}", key.name);
        let _ = writeln!(text, "| `{name}` | {} | {default} | {} |", key.kind.words(), key.doc);
        within(&key.kind, &name, text);
    }
}

fn within(kind: &Kind, name: &str, text: &mut String) {
    match kind {
        Kind::Object(inner) => keys(inner, &format!("{name}."), text),
        Kind::List(kind, _) => within(kind, &format!("{name}[]"), text),
        Kind::Map(kind, _) => within(kind, &format!("{name}.NAME"), text),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| within(kind, name, text)),
        _ => {}
    }
}

fn describe(name: &str, command: &Command, text: &mut String) {
    let inner: Vec<_> = command.get_subcommands().collect();
    for command in &inner {
        describe(&format!("{name} {}", command.get_name()), command, text);
    }
    if inner.is_empty() {
        let mut command = command.clone().bin_name(name).disable_help_flag(true).term_width(100);
        let _ = write!(text, "## {name}\n\n```text\n{}\n```\n\n", command.render_help().to_string().trim_end());
    }
}

/// A table of flags.
fn settings<S: Args>() -> String {
    let mut text = "| flag | environment | default | what it is |\n|---|---|---|---|\n".to_owned();
    for arg in S::augment_args(Command::new("plane")).get_arguments() {
        let flag = arg.get_long().expect("every setting is a flag");
        let takes_value = arg.get_action().takes_values();
        let value = arg.get_value_names().filter(|_| takes_value).map(|names| format!(" {}", names[0]));
        let env = arg.get_env().expect("every setting has a variable").to_string_lossy();
        let help = arg.get_help().expect("every setting is explained").to_string();
        let (help, default) = default(arg, &help);
        let _ = writeln!(text, "| `--{flag}{}` | `{env}` | {default} | {help} |", value.unwrap_or_default());
    }
    text
}

/// What a flag is for, and what it is without being set: clap's default, or what the help says in brackets.
fn default<'a>(arg: &Arg, help: &'a str) -> (&'a str, String) {
    if let Some((help, rest)) = help.split_once(" [default: ") {
        return (help, rest.trim_end_matches(']').to_owned());
    }
    let default = match arg.get_default_values() {
        [value] if arg.get_action().takes_values() => format!("`{}`", value.to_string_lossy()),
        _ if arg.get_action().takes_values() => "none".to_owned(),
        _ => "off".to_owned(),
    };
    (help, default)
}

/// Compares a whole document with what should be.
fn check_whole(file: &str, expected: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("makes the folder");
        fs::write(&path, expected).expect("writes");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "docs/{file} is out of date: UPDATE_DOCS=1 cargo test -p gatectl --lib docs");
}

/// Compares what is between a document's markers with what should be.
fn check(file: &str, part: &str, expected: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let document = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (begin, end) = (format!("<!-- {part}: begin -->\n"), format!("<!-- {part}: end -->"));
    let (before, rest) = document.split_once(&begin).unwrap_or_else(|| panic!("{file} has no {begin:?}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no {end:?}"));
    // Trailing spaces are nothing that anyone sees.
    let expected: String = expected.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).expect("writes");
        return;
    }
    assert_eq!(found, expected, "docs/{file} is out of date: UPDATE_DOCS=1 cargo test -p gatectl --lib docs");
}
