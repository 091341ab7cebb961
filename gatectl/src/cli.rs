//! What can be typed.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{client::DEFAULT_URL, commands::dev::DevArgs};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an error, faults in the input, or a check that does not hold
  2  a misspelt command line; `diff` found changes
  3  a proxy refused the revision (--wait)
  4  not every proxy served the revision in time (--wait)

Environment:
  RUSTYGATE_CONTROL_PLANE, RUSTYGATE_CONTROL_PLANE_CA, RUSTYGATE_TOKEN_FILE  as the flags
  RUSTYGATE_TOKEN  the token itself
  NO_COLOR         no colours";

/// RustyGate's command line: apply, inspect, explain, roll back, and run it all in one process
#[derive(Debug, Parser)]
#[command(name = "gatectl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the control plane is, and how things look.
#[derive(Debug, Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// The control plane's gRPC address
    #[arg(
        long,
        short = 'c',
        global = true,
        env = "RUSTYGATE_CONTROL_PLANE",
        default_value = DEFAULT_URL,
        hide_env = true,
        value_name = "URL"
    )]
    pub control_plane: String,

    /// File with the bearer token that the control plane asks for
    #[arg(long, global = true, env = "RUSTYGATE_TOKEN_FILE", hide_env = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// File with the CA certificates (PEM) that the control plane's certificate is checked against
    #[arg(long, global = true, env = "RUSTYGATE_CONTROL_PLANE_CA", hide_env = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// No colours
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the configuration what the files say: one new revision, or none if nothing differs
    Apply(ApplyArgs),
    /// Check files without a control plane, by the same rules; what they refer to must be in them
    Validate(ValidateArgs),
    /// Show what `apply` would change, and change nothing
    Diff(DiffArgs),
    /// Show the configuration; `get -o yaml` can be applied again
    Get(GetArgs),
    /// Remove resources
    Delete(DeleteArgs),
    /// Show the revisions, newest first
    History(HistoryArgs),
    /// Make a new revision with the content of an old one
    Rollback(RollbackArgs),
    /// Show each proxy: what it serves, how far behind it is, what it refused; and certificates that end soon
    Status(StatusArgs),
    /// Show which route gets a request, and why the others do not
    Explain(ExplainArgs),
    /// Print each new revision as it comes
    Watch(WatchArgs),
    /// Make, list and revoke the tokens that the control plane accepts
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Run a control plane and a proxy in this process
    Dev(DevArgs),
    /// Show the version, and the control plane's revision
    Version,
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Where YAML comes from.
#[derive(Debug, Args)]
pub struct Files {
    /// A file, a folder (its *.yaml and *.yml), or - for stdin; repeatable
    #[arg(long = "file", short = 'f', required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// How a change is made.
#[derive(Debug, Args)]
pub struct Change {
    /// Why, for the history
    #[arg(long, short = 'm', default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub message: String,

    /// Who, for the history; a token's name goes before it
    #[arg(
        long,
        env = "USER",
        default_value = "unknown",
        hide_env = true,
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub author: String,

    /// Refuse unless this is the present revision
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,

    /// Check and show what would change, but change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Wait until every connected proxy serves it, at most this long [default: 10s]
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10s",
        value_parser = parse_wait,
        conflicts_with = "dry_run"
    )]
    pub wait: Option<Duration>,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TextFormat::Text, value_name = "FORMAT")]
    pub output: TextFormat,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// What to apply.
    #[command(flatten)]
    pub files: Files,
    /// How.
    #[command(flatten)]
    pub change: Change,

    /// Whose resources these are
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub owner: String,

    /// Also remove what this owner applied before and the files no longer have
    #[arg(long)]
    pub prune: bool,
}

/// `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// What to check.
    #[command(flatten)]
    pub files: Files,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TextFormat::Text, value_name = "FORMAT")]
    pub output: TextFormat,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What to compare with.
    #[command(flatten)]
    pub files: Files,

    /// Whose resources these are
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub owner: String,

    /// Also show what `apply --prune` would remove
    #[arg(long)]
    pub prune: bool,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TextFormat::Text, value_name = "FORMAT")]
    pub output: TextFormat,
}

/// `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Which kind
    #[arg(value_enum, default_value_t = KindOrAll::All, hide_default_value = true)]
    pub kind: KindOrAll,

    /// Only those of these names
    pub names: Vec<String>,

    /// As of this revision [default: the present one]
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = DataFormat::Table, value_name = "FORMAT")]
    pub output: DataFormat,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Which kind
    #[arg(value_enum)]
    pub kind: Kind,

    /// Which of them
    #[arg(required = true)]
    pub names: Vec<String>,

    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// How many
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub limit: u32,

    /// Only revisions below this one
    #[arg(long, value_name = "N")]
    pub before: Option<u64>,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TableFormat::Table, value_name = "FORMAT")]
    pub output: TableFormat,
}

/// `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Whose content to bring back; see `gatectl history`
    #[arg(value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: u64,

    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Exit with 1 unless at least one proxy is there and each is connected and serves the present revision
    #[arg(long)]
    pub check: bool,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TableFormat::Table, value_name = "FORMAT")]
    pub output: TableFormat,
}

/// `explain`. Exits with 1 if no route gets the request.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The method, as the client sends it
    pub method: String,

    /// The URL, as a client has it: `http://HOST:PORT/path?query`; `/path?query` asks for it of localhost
    pub url: String,

    /// A header of the request; repeatable
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,

    /// Name of the listener that it comes in by
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub listener: String,

    /// Ask these files, not the control plane; as in `apply`
    #[arg(long = "file", short = 'f', value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// As of this revision [default: the present one]
    #[arg(long, value_name = "N", conflicts_with = "paths")]
    pub revision: Option<u64>,

    /// How to show it
    #[arg(long, short = 'o', value_enum, default_value_t = TextFormat::Text, value_name = "FORMAT")]
    pub output: TextFormat,
}

/// `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// How to show it; json is one object a line
    #[arg(long, short = 'o', value_enum, default_value_t = TextFormat::Text, value_name = "FORMAT")]
    pub output: TextFormat,
}

/// `token ...`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; its secret is printed once, alone, on stdout
    Create {
        /// What it may do
        #[arg(long, value_enum)]
        role: Role,
        /// How history and `token list` call it [default: the role and the time]
        name: Option<String>,
    },
    /// Show the tokens
    List {
        /// How to show it
        #[arg(long, short = 'o', value_enum, default_value_t = TableFormat::Table, value_name = "FORMAT")]
        output: TableFormat,
    },
    /// Take a token out of force, at once
    Revoke {
        /// Which
        name: String,
    },
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Open a snapshot stream, nothing else
    Proxy,
    /// Read
    Viewer,
    /// Read and change the configuration
    Editor,
    /// Everything, tokens too
    Admin,
}

/// What resources there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Which requests go where
    #[value(alias = "routes")]
    Route,
    /// Where they go
    #[value(alias = "backends")]
    Backend,
    /// What is done with them on the way
    #[value(alias = "plugins")]
    Plugin,
    /// Where they come in
    #[value(alias = "listeners")]
    Listener,
    /// What TLS is spoken with
    #[value(alias = "certificates")]
    Certificate,
    /// Who calls, by keys and passwords
    #[value(alias = "consumers")]
    Consumer,
    /// What holds where nothing says otherwise
    Defaults,
}

/// A kind, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindOrAll {
    /// Which requests go where
    #[value(alias = "route")]
    Routes,
    /// Where they go
    #[value(alias = "backend")]
    Backends,
    /// What is done with them on the way
    #[value(alias = "plugin")]
    Plugins,
    /// Where they come in
    #[value(alias = "listener")]
    Listeners,
    /// What TLS is spoken with
    #[value(alias = "certificate")]
    Certificates,
    /// Who calls, by keys and passwords
    #[value(alias = "consumer")]
    Consumers,
    /// What holds where nothing says otherwise
    Defaults,
    /// All of them
    All,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    Text,
    Json,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    Table,
    Json,
}

/// For people, for `apply`, or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    Table,
    Yaml,
    Json,
}

/// What the control plane allows.
const WAIT_TIME_MAX: Duration = Duration::from_secs(300);

fn parse_wait(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bad = || format!("{text:?} is not a time like 500ms, 10s or 2m");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(bad()),
    };
    let time = Duration::from_millis(number.saturating_mul(unit_ms));
    if time.is_zero() || time > WAIT_TIME_MAX {
        return Err(format!("{text:?} is not between 1ms and 5m"));
    }
    Ok(time)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not \"NAME: VALUE\""))?;
    let value = value.trim_matches([' ', '\t']);
    if !rustygate_data_plane::fields::is_token(name.as_bytes()) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    if !value.is_empty() && !rustygate_data_plane::fields::is_field_value(value.as_bytes()) {
        return Err(format!("{value:?} cannot be the value of a header"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    fn wait_of(args: &[&str]) -> Option<Duration> {
        let cli = Cli::try_parse_from([&["gatectl", "apply", "-f", "a.yaml"], args].concat()).expect("parses");
        let Command::Apply(apply) = cli.command else { panic!("apply") };
        apply.change.wait
    }

    #[test]
    fn wait_has_a_default_time_and_takes_another() {
        assert_eq!(wait_of(&[]), None);
        assert_eq!(wait_of(&["--wait"]), Some(Duration::from_secs(10)));
        assert_eq!(wait_of(&["--wait", "-f", "b.yaml"]), Some(Duration::from_secs(10)));
        assert_eq!(wait_of(&["--wait=250ms"]), Some(Duration::from_millis(250)));
        assert_eq!(wait_of(&["--wait=2m"]), Some(Duration::from_secs(120)));
    }

    #[test]
    fn times_out_of_bounds_and_other_words_are_refused() {
        for bad in ["", "0s", "301s", "6m", "5", "s", "-1s", "1h", "99999999999999999999s", "18446744073709551615m"] {
            assert!(parse_wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_a_name_and_a_value() {
        assert_eq!(parse_header("X-Team:  red "), Ok(("X-Team".to_owned(), "red".to_owned())));
        assert_eq!(parse_header("x-url: http://a"), Ok(("x-url".to_owned(), "http://a".to_owned())));
        assert_eq!(parse_header("x-empty:"), Ok(("x-empty".to_owned(), String::new())));
        for bad in ["x-team", ": v", "a b: v", "a: v\r\nb: c"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_taken_in_the_singular_and_in_the_plural() {
        for words in
            [["get", "routes", "a"], ["get", "route", "a"], ["delete", "route", "a"], ["delete", "routes", "a"]]
        {
            assert!(Cli::try_parse_from([&["gatectl"], words.as_slice()].concat()).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let kind =
            |args: &[&str]| Cli::try_parse_from([&["gatectl"], args].concat()).expect_err("must be refused").kind();
        assert_eq!(kind(&["apply", "-f", "a", "--dry-run", "--wait"]), ErrorKind::ArgumentConflict);
        assert_eq!(kind(&["dev", "--demo", "-f", "a"]), ErrorKind::ArgumentConflict);
        assert_eq!(kind(&["apply"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind(&["rollback", "0"]), ErrorKind::ValueValidation);
    }
}
