//! The conditions of a match beyond host and path: listener, method, headers, query parameters.

use std::{collections::BTreeSet, sync::Arc};

use super::RequestView;

/// Conditions that must all hold.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Conditions {
    /// Names of listeners; empty means all.
    pub listeners: BTreeSet<Arc<str>>,
    /// Sorted, without repetition; empty means all.
    pub methods: Vec<Box<str>>,
    /// Sorted; names in lower case.
    pub headers: Vec<ValueCondition>,
    /// Sorted.
    pub query: Vec<ValueCondition>,
}

/// A condition on every value of one header or query parameter, of which there must be one at least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ValueCondition {
    pub name: Box<str>,
    pub test: ValueTest,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ValueTest {
    Exact(Box<str>),
    Regex(Arc<Pattern>),
}

/// A regular expression that must match the whole of its input; known by its text.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: Box<str>,
    bytes: usize,
    regex: regex::bytes::Regex,
}

/// The most bytes that the text of a regex may have.
pub(crate) const PATTERN_BYTES_MAX: usize = 4096;

/// The most bytes that a compiled regex may take, and again what its matcher may cache per thread.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// What a compiled regex is counted as: the least of these that it fits. How much it takes exactly, it does not tell.
const PATTERN_SIZES: [usize; 4] = [4 << 10, 32 << 10, 256 << 10, PATTERN_MEMORY_MAX];

/// Why a text is no regex.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPattern {
    #[error("the regex is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the regex needs more than {PATTERN_MEMORY_MAX} bytes once compiled")]
    TooLarge,
    #[error("the regex does not parse: {0}")]
    Syntax(String),
}

impl Pattern {
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern::TooLong);
        }
        // Alone first, so that no text can close the group that it is put into.
        build(text, PATTERN_MEMORY_MAX)?;
        let whole = whole(text);
        let fits = |bytes: usize| build(&whole, bytes).ok().map(|regex| (regex, bytes));
        let (regex, bytes) = PATTERN_SIZES.into_iter().find_map(fits).ok_or(BadPattern::TooLarge)?;
        Ok(Self { text: text.into(), bytes, regex })
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

/// The regex that matches only a whole input.
pub(super) fn whole(text: &str) -> String {
    format!(r"\A(?:{text})\z")
}

fn build(text: &str, bytes_max: usize) -> Result<regex::bytes::Regex, BadPattern> {
    regex::bytes::RegexBuilder::new(text).size_limit(bytes_max).dfa_size_limit(PATTERN_MEMORY_MAX).build().map_err(
        |error| match error {
            regex::Error::CompiledTooBig(_) => BadPattern::TooLarge,
            error => BadPattern::Syntax(last_line(&error.to_string())),
        },
    )
}

/// A syntax error draws the pattern over several lines; its last line says what is wrong.
fn last_line(error: &str) -> String {
    let line = error.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl std::hash::Hash for Pattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl ValueTest {
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

impl Conditions {
    /// About how many bytes its regexes take.
    pub fn regex_bytes(&self) -> usize {
        let tests = self.headers.iter().chain(&self.query).map(|condition| &condition.test);
        let regexes = tests.filter_map(|test| match test {
            ValueTest::Exact(_) => None,
            ValueTest::Regex(pattern) => Some(pattern.bytes()),
        });
        regexes.sum()
    }

    /// Whether every one holds. Allocates only for a regex on an encoded query parameter.
    pub fn hold(&self, request: &RequestView<'_>) -> bool {
        listener_holds(&self.listeners, request.listener)
            && (self.methods.is_empty() || self.methods.iter().any(|method| **method == *request.method))
            && self.headers.iter().all(|condition| all(request.fields.get_all(&condition.name), &condition.test))
            && self.query.iter().all(|condition| parameter_holds(condition, request.query.unwrap_or_default()))
    }

    /// Whether both ask for the same, listeners aside, and some listener is for both.
    pub fn clash(&self, other: &Self) -> bool {
        self.methods == other.methods
            && self.headers == other.headers
            && self.query == other.query
            && listeners_overlap(&self.listeners, &other.listeners)
    }
}

fn listener_holds(listeners: &BTreeSet<Arc<str>>, listener: &str) -> bool {
    listeners.is_empty() || listener.is_empty() || listeners.contains(listener)
}

fn listeners_overlap(left: &BTreeSet<Arc<str>>, right: &BTreeSet<Arc<str>>) -> bool {
    left.is_empty() || right.is_empty() || !left.is_disjoint(right)
}

fn all<'a>(values: impl Iterator<Item = &'a [u8]>, test: &ValueTest) -> bool {
    let mut any = false;
    for value in values {
        if !test.is_match(value) {
            return false;
        }
        any = true;
    }
    any
}

fn parameter_holds(condition: &ValueCondition, query: &str) -> bool {
    let mut any = false;
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if parameter.is_empty() || !is_encoding_of(name, &condition.name) {
            continue;
        }
        let holds = match &condition.test {
            ValueTest::Exact(text) => is_encoding_of(value, text),
            ValueTest::Regex(pattern) if is_encoded(value) => pattern.is_match(&decoded(value).collect::<Vec<u8>>()),
            ValueTest::Regex(pattern) => pattern.is_match(value.as_bytes()),
        };
        if !holds {
            return false;
        }
        any = true;
    }
    any
}

/// Every value of a query parameter, decoded, up to so many bytes of each.
pub(crate) fn query_values(query: &str, name: &str, bytes_max: usize) -> impl Iterator<Item = Vec<u8>> {
    query.split('&').filter(|parameter| !parameter.is_empty()).filter_map(move |parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        is_encoding_of(key, name).then(|| decoded(value).take(bytes_max).collect())
    })
}

/// The query without that parameter, in whatever spelling of the name; `None` if it does not have it.
pub(crate) fn query_without(query: &str, name: &str) -> Option<String> {
    let is_other = |parameter: &&str| !is_encoding_of(parameter.split('=').next().unwrap_or_default(), name);
    let rest = query.split('&').filter(is_other).collect::<Vec<_>>().join("&");
    (rest.len() < query.len()).then_some(rest)
}

fn is_encoded(text: &str) -> bool {
    memchr::memchr2(b'%', b'+', text.as_bytes()).is_some()
}

fn is_encoding_of(encoded: &str, text: &str) -> bool {
    encoded == text && !is_encoded(encoded) || is_encoded(encoded) && decoded(encoded).eq(text.bytes())
}

/// Percent escapes decoded and plus signs made spaces; what is no escape stays as it is.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(match byte {
            b'+' => b' ',
            b'%' => match after.first_chunk::<2>().and_then(escaped) {
                Some(decoded) => {
                    rest = &after[2..];
                    decoded
                }
                None => b'%',
            },
            byte => byte,
        })
    })
}

#[allow(clippy::cast_possible_truncation, reason = "two hex digits fit a byte")]
fn escaped(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(digits[0])? << 4 | digit(digits[1])?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn query_holds(name: &str, test: ValueTest, query: &str) -> bool {
        let conditions =
            Conditions { query: vec![ValueCondition { name: name.into(), test }], ..Conditions::default() };
        conditions.hold(&RequestView {
            listener: "",
            method: "GET",
            host: "",
            path: "/",
            query: Some(query),
            fields: &Fields::new(),
        })
    }

    fn exact(text: &str) -> ValueTest {
        ValueTest::Exact(text.into())
    }

    #[test]
    fn query_parameters_are_compared_decoded() {
        assert!(query_holds("a b", exact("x/y"), "a+b=x%2Fy"));
        assert!(query_holds("a b", exact("1 2"), "c=d&a%20b=1+2&&"));
        assert!(query_holds("a", exact("%zz"), "a=%zz"));
        assert!(query_holds("a", exact(""), "a"));
        assert!(!query_holds("a+b", exact("1"), "a+b=1"));
        assert!(!query_holds("", exact(""), ""));
        let pattern = ValueTest::Regex(Arc::new(Pattern::new("x.y").expect("valid")));
        assert!(query_holds("a", pattern.clone(), "a=x%2Fy"));
        assert!(!query_holds("a", pattern, "a=x%2Fyy"));
    }

    #[test]
    fn every_occurrence_of_a_parameter_counts() {
        assert!(query_holds("a", exact("1"), "a=1&b=2&a=1"));
        assert!(!query_holds("a", exact("1"), "a=1&a=2"));
        assert!(!query_holds("a", exact("1"), "%61=2&a=1"));
        assert!(!query_holds("a", exact("1"), "b=1"));
    }

    #[test]
    fn every_line_of_a_header_counts() {
        let conditions = Conditions {
            headers: vec![ValueCondition { name: "x-role".into(), test: exact("user") }],
            ..Conditions::default()
        };
        let holds = |lines: &[(&str, &str)]| {
            let mut fields = Fields::new();
            lines.iter().for_each(|(name, value)| fields.append(name, value.as_bytes()));
            let view = RequestView { listener: "", method: "GET", host: "", path: "/", query: None, fields: &fields };
            conditions.hold(&view)
        };
        assert!(holds(&[("X-Role", "user")]));
        assert!(holds(&[("X-Role", "user"), ("x-role", "user")]));
        assert!(!holds(&[("X-Role", "user"), ("X-Role", "admin")]));
        assert!(!holds(&[("X-Role", "user, admin")]));
        assert!(!holds(&[]));
    }

    #[test]
    fn a_pattern_matches_the_whole_and_cannot_leave_its_group() {
        let pattern = Pattern::new("red|blue").expect("valid");
        assert!(pattern.is_match(b"red") && pattern.is_match(b"blue"));
        assert!(!pattern.is_match(b"redx") && !pattern.is_match(b"xblue") && !pattern.is_match(b"red\n"));
        assert!(matches!(Pattern::new("a)|(b"), Err(BadPattern::Syntax(_))));
        assert!(matches!(Pattern::new(r"(\w{500}){500}"), Err(BadPattern::TooLarge)));
        assert!(matches!(Pattern::new(&"a".repeat(5000)), Err(BadPattern::TooLong)));
        assert!(Pattern::new(&"(".repeat(4000)).is_err());
    }
}
