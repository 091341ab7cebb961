//! What each type of plugin says of itself in one static table: it checks and reads configurations, finds their secrets,
//! and makes the type's page of the reference.

/// A type of plugin.
#[derive(Debug)]
pub struct Spec {
    /// As the manifest has it: "rate_limit".
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// More of it, in paragraphs of Markdown; may be empty.
    pub details: &'static str,
    /// What its configuration has.
    pub keys: &'static [Key],
    /// A whole configuration in YAML that is valid.
    pub example: &'static str,
    /// Each way in which it refuses.
    pub reasons: &'static [&'static Reason],
}

/// A key of a mapping.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What holds without it, as people read it; for numbers and durations also as the code does. "" for nothing.
    pub default: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
}

impl Key {
    /// A key that may be left out.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self { name, kind, required: false, default, doc }
    }

    /// A key that must be there.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: true, default: "", doc }
    }
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number within bounds, both included.
    Integer {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A number from 0 to 100, with a fraction or without.
    Percent,
    /// A time within bounds in milliseconds, both included: "5s".
    Duration {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Text of so many bytes at most.
    Text {
        /// The most bytes.
        max: usize,
    },
    /// One of some words.
    Word(&'static [&'static str]),
    /// The name of a header that a plugin may change.
    FieldName,
    /// The name of a header that is only read.
    AnyFieldName,
    /// The value of a header.
    FieldValue,
    /// Names of headers that a plugin may change, and their values: text that everyone may see, or `{file: ...}` or
    /// `{env: ...}`, which is sealed at rest and never shown.
    Fields,
    /// The name of a backend, which must be there.
    Backend,
    /// An address or a block of them.
    Cidr,
    /// A regex.
    Regex,
    /// Text, `{file: ...}` or `{env: ...}`: sealed at rest and never shown.
    Secret,
    /// Text, `{file: ...}` or `{env: ...}` that everyone may see.
    Outside,
    /// A list of so many at most.
    List(&'static Self, usize),
    /// Names of the user's own, and what each holds; so many at most.
    Map(&'static Self, usize),
    /// A mapping with these keys.
    Object(&'static [Key]),
    /// The first of these that the value looks like: by whether it is a mapping, a list or a scalar.
    Either(&'static [Self]),
}

/// What a value looks like, before anybody knows what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A mapping.
    Map,
    /// A list.
    List,
    /// true or false.
    Bool,
    /// A number.
    Number,
    /// Text.
    Text,
    /// Nothing of these.
    Other,
}

impl Kind {
    /// Itself, or that one of several which a value of this shape is meant to be.
    #[must_use]
    pub fn of_shape(&self, shape: Shape) -> &Self {
        let Self::Either(kinds) = self else { return self };
        let fits = |kind: &Self| match kind {
            Self::Object(_) | Self::Map(..) | Self::Fields => shape == Shape::Map,
            Self::List(..) => shape == Shape::List,
            Self::Bool => shape == Shape::Bool,
            Self::Integer { .. } | Self::Percent => shape == Shape::Number,
            Self::Secret | Self::Outside => matches!(shape, Shape::Map | Shape::Text),
            _ => shape == Shape::Text,
        };
        kinds.iter().find(|kind| fits(kind)).or(kinds.first()).unwrap_or(self)
    }

    /// What the value of that key of it is, if it is a mapping that has the key.
    #[must_use]
    pub fn under(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(keys) => keys.iter().find(|key| key.name == name).map(|key| &key.kind),
            Self::Map(kind, _) => Some(kind),
            _ => None,
        }
    }

    /// What its items are, if it is a list.
    #[must_use]
    pub fn item(&self) -> Option<&Self> {
        match self {
            Self::List(kind, _) => Some(kind),
            _ => None,
        }
    }

    /// As the reference has it.
    #[must_use]
    pub fn words(&self) -> String {
        use crate::duration::write;
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => format!("{min} to {max}"),
            Self::Percent => "0 to 100, also with a fraction".to_owned(),
            Self::Duration { min, max } => format!("duration, {} to {}", write(*min), write(*max)),
            Self::Text { max } => format!("text, up to {max} bytes"),
            Self::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Self::FieldName | Self::AnyFieldName => "name of a header".to_owned(),
            Self::FieldValue => "value of a header".to_owned(),
            Self::Fields => {
                "names and values of headers; a value is text, or a secret: `{file: ...}` or `{env: ...}`".to_owned()
            }
            Self::Backend => "name of a backend".to_owned(),
            Self::Cidr => "address or CIDR block".to_owned(),
            Self::Regex => "regex".to_owned(),
            Self::Secret => "secret: text, `{file: ...}` or `{env: ...}`".to_owned(),
            Self::Outside => "text, `{file: ...}` or `{env: ...}`".to_owned(),
            Self::List(kind, max) => format!("list of up to {max}: {}", kind.words()),
            Self::Map(kind, max) => format!("mapping of up to {max}, each: {}", kind.words()),
            Self::Object(_) => "mapping".to_owned(),
            Self::Either(kinds) => kinds.iter().map(Self::words).collect::<Vec<_>>().join("; or "),
        }
    }
}

/// A way in which a plugin refuses a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable: clients, logs and metrics have it.
    pub name: &'static str,
    /// Of the answer.
    pub status: u16,
    /// One sentence for the client, which tells nothing of what is behind the gateway.
    pub detail: &'static str,
    /// When, for the reference.
    pub when: &'static str,
}
