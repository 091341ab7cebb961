//! What is wrong with a configuration: the stable codes, and a collector that keeps its reports bounded.

use std::fmt::Display;

use rustygate_proto::v1 as wire;

/// The most faults that one report has; the last then says how many were left out.
pub const FAULTS_MAX: usize = 1000;

/// How many regexes of a report may fail to compile before the others are not tried: each may take milliseconds.
const BAD_REGEXES_MAX: usize = 20;

/// Characters of one value that a message repeats.
const SHOWN_MAX: usize = 60;

/// How many faults of a report get a "did you mean": each compares with every name there is.
const SUGGESTIONS_MAX: usize = 20;

/// A part that must be there is not.
pub const MISSING: &str = "RG0104";
/// A value that cannot be, where no other code says it better.
pub const BAD_VALUE: &str = "RG0107";
/// A name that nothing has.
pub const DANGLING: &str = "RG0201";
/// Two matches ask for the same.
pub const SAME_MATCH: &str = "RG0202";
/// A regex that does not compile or is too large.
pub const BAD_REGEX: &str = "RG0203";
/// A URL that no request can be sent to.
pub const BAD_URL: &str = "RG0204";
/// Something is removed that a route still needs.
pub const STILL_USED: &str = "RG0205";
/// A host that no request can have.
pub const BAD_HOST: &str = "RG0206";
/// A path that no request can have.
pub const BAD_PATH: &str = "RG0207";
/// A plugin's configuration.
pub const BAD_PLUGIN_CONFIG: &str = "RG0208";
/// A plugin type that this version has not.
pub const UNKNOWN_PLUGIN_TYPE: &str = "RG0209";
/// A number or a count beyond its bounds.
pub const OUT_OF_BOUNDS: &str = "RG0210";
/// An address that cannot be listened on.
pub const BAD_LISTENER_ADDRESS: &str = "RG0211";
/// Two listeners on one address.
pub const DUPLICATE_LISTENER_ADDRESS: &str = "RG0212";
/// A message that this version cannot read: damaged, or from a newer sender.
pub const UNREADABLE: &str = "RG0213";
/// A condition that no request can meet.
pub const BAD_CONDITION: &str = "RG0214";
/// Certificates that cannot be used: of a chain, or authorities.
pub const BAD_CERTIFICATE: &str = "RG0220";
/// A private key that cannot be used, or is another certificate's.
pub const BAD_KEY: &str = "RG0221";
/// Terms of TLS, or a protocol, that cannot be.
pub const BAD_TLS: &str = "RG0222";

/// A key or a user name that two consumers have.
pub const SAME_CREDENTIAL: &str = "RG0230";

/// A listener that cannot be bound.
pub const CANNOT_BIND: &str = "RG0301";
/// A push that came broken or out of order.
pub const BROKEN_PUSH: &str = "RG0302";
/// A set whose checksum is not that of its revision.
pub const WRONG_CHECKSUM: &str = "RG0303";
/// A proxy that failed inside.
pub const FAILED_INSIDE: &str = "RG0304";
/// Faults that were left out of a report.
pub const FAULTS_OMITTED: &str = "RG0305";

/// Collects faults of one resource after the other.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<wire::Fault>,
    omitted: usize,
    suggestions: usize,
    bad_regexes: usize,
    kind: wire::Kind,
    name: String,
}

impl Faults {
    /// What comes next is about this resource.
    pub fn enter(&mut self, kind: wire::Kind, name: &str) {
        self.kind = kind;
        name.clone_into(&mut self.name);
    }

    /// Adds a fault of the resource entered last.
    pub fn add(&mut self, code: &str, field: impl Display, message: impl Display) {
        self.add_with_hint(code, field, message, "");
    }

    /// Adds a fault that also says what to do.
    pub fn add_with_hint(&mut self, code: &str, field: impl Display, message: impl Display, hint: impl Display) {
        if self.list.len() >= FAULTS_MAX {
            self.omitted += 1;
            return;
        }
        self.list.push(wire::Fault {
            code: code.to_owned(),
            kind: self.kind.into(),
            name: self.name.clone(),
            field: field.to_string(),
            message: message.to_string(),
            hint: hint.to_string(),
            location: None,
        });
    }

    /// Adds a fault of a regex. The last that is looked at says so.
    pub fn add_bad_regex(&mut self, field: impl Display, message: impl Display) {
        self.bad_regexes += 1;
        let hint = if self.regexes_are_given_up() { "regexes after this one were not looked at" } else { "" };
        self.add_with_hint(BAD_REGEX, field, message, hint);
    }

    /// Adds the fault of a regex that is one too many for those before it; no more are tried.
    pub fn add_regex_beyond(&mut self, message: impl Display) {
        self.bad_regexes = BAD_REGEXES_MAX;
        self.add_with_hint(BAD_REGEX, "", message, "use prefixes, or simpler or fewer regexes");
    }

    /// Whether so many regexes were bad that no more are to be tried.
    #[must_use]
    pub fn regexes_are_given_up(&self) -> bool {
        self.bad_regexes >= BAD_REGEXES_MAX
    }

    /// Adds faults that are complete.
    pub fn extend(&mut self, faults: Vec<wire::Fault>) {
        for fault in faults {
            if self.list.len() >= FAULTS_MAX {
                self.omitted += 1;
            } else {
                self.list.push(fault);
            }
        }
    }

    /// "did you mean ...", if one of the names is close and not too many were compared already.
    pub fn suggestion<'a>(&mut self, name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
        self.suggestions += 1;
        if self.suggestions > SUGGESTIONS_MAX {
            return String::new();
        }
        closest(name, candidates).map(|close| format!("did you mean {close:?}?")).unwrap_or_default()
    }

    /// How many there are, those that are not listed included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<wire::Fault> {
        if self.omitted > 0
            && let Some(last) = self.list.last_mut()
        {
            let more = format!(" (and {} more faults that are not listed)", self.omitted);
            last.message.push_str(&more);
        }
        self.list
    }
}

/// A value in quotes, escaped and cut: a report must stay readable whatever is in it.
#[must_use]
pub fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_MAX) {
        None => format!("{value:?}"),
        Some((end, _)) => format!("{:?}...", &value[..end]),
    }
}

/// The name that differs least, if it differs by little.
#[must_use]
pub fn closest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = 1 + name.chars().count() / 4;
    let near = candidates.filter(|candidate| candidate.len().abs_diff(name.len()) <= 4 * far);
    let distances = near.map(|candidate| (strsim::osa_distance(name, candidate), candidate));
    distances.filter(|(distance, _)| *distance <= far).min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_close_name_is_suggested() {
        let names = ["users", "orders", "billing"];
        assert_eq!(closest("user", names.into_iter()), Some("users"));
        assert_eq!(closest("odrers", names.into_iter()), Some("orders"));
        assert_eq!(closest("payments", names.into_iter()), None);
    }

    #[test]
    fn a_long_value_is_cut_and_a_hidden_character_is_escaped() {
        assert_eq!(shown("a\x1b"), r#""a\u{1b}""#);
        assert_eq!(shown(&"é".repeat(60)), format!("\"{}\"", "é".repeat(60)));
        assert_eq!(shown(&"é".repeat(1 << 20)), format!("\"{}\"...", "é".repeat(60)));
    }

    #[test]
    fn a_report_is_bounded_and_says_so() {
        let mut faults = Faults::default();
        for _ in 0..FAULTS_MAX + 5 {
            faults.add(BAD_VALUE, "", "bad");
        }
        let faults = faults.into_vec();
        assert_eq!(faults.len(), FAULTS_MAX);
        assert_eq!(faults[FAULTS_MAX - 1].message, "bad (and 5 more faults that are not listed)");
    }
}
