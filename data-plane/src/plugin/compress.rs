//! `compress`: puts answers into a coding that takes fewer bytes and that the client takes.

use super::{
    Content, Flow, PluginRequest, PluginResponse, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    body::is_stream,
    encoding::{Accepted, Coding, Encoder, LEVEL_MAX, is_digest},
    fields::{Fields, is_token},
    http1::{Framing, head::plain_number},
    snapshot::fault::Faults,
};

/// What is compressed unless the configuration says otherwise: text by whatever name, and fonts and images that are not
/// compressed in themselves.
const TYPES: [&str; 18] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/xml",
    "application/*+xml",
    "application/javascript",
    "application/x-javascript",
    "application/x-ndjson",
    "application/graphql",
    "application/yaml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
    "image/bmp",
    "image/x-icon",
    "image/vnd.microsoft.icon",
];

/// The word for them in the reference.
const TYPES_TEXT: &str = "those above";

const CODING: Kind = Kind::Word(&["zstd", "br", "gzip"]);
const TYPE: Kind = Kind::Text { max: 128 };
const LEVEL: Kind = Kind::Integer { min: 1, max: LEVEL_MAX as u64 };

pub(super) static SPEC: Spec = Spec {
    name: "compress",
    summary: "Compresses answers for clients that take it: zstd, br (Brotli) or gzip.",
    details: "The client says in `Accept-Encoding` what it takes and what it likes best; where it likes several alike, as browsers \
do, the order of `algorithms` decides. The answer gets `Content-Encoding` and `Vary: Accept-Encoding`, a strong `ETag` \
becomes a weak one, and `Content-Length`, `Accept-Ranges` and digests of the body go. An answer that would be compressed for others has \
`Vary: Accept-Encoding` too, for caches. The answer to a `HEAD` says what that to a `GET` would.\n\n\
These stay as they are: answers that have a `Content-Encoding` already, parts of a whole (206, `Content-Range`), those with \
`Cache-Control: no-transform`, without a `Content-Type` or with one that is not in `types`, short ones, `text/event-stream` and gRPC \
whatever `types` says, WebSockets, those that the gateway makes itself, and all for clients of HTTP/1.0.\n\n\
An answer goes on as it comes: when the backend pauses, the client gets all that there is. A worker of a proxy compresses 128 answers at a \
time, with up to 4 MiB each; those beyond go as they are.\n\n\
`types` are media types without parameters: `application/json`, all of a kind (`text/*`), or all of a kind with that ending \
(`application/*+json`). Without it they are: `text/*`, `application/json`, `application/*+json`, `application/xml`, `application/*+xml`, \
`application/javascript`, `application/x-javascript`, `application/x-ndjson`, `application/graphql`, `application/yaml`, \
`application/wasm`, `application/vnd.ms-fontobject`, `font/otf`, `font/ttf`, `image/svg+xml`, `image/bmp`, `image/x-icon`, \
`image/vnd.microsoft.icon`.\n\n\
Do not compress answers that have a secret (a token against forgery, say) beside something that the request brought along: who makes a \
browser ask often and sees the lengths of the answers can guess the secret (BREACH), over TLS too. Give the routes of such answers a `compress` \
with `enabled: false`, or have the backend say `no-transform`.",
    keys: &[
        Key::new("algorithms", Kind::List(&CODING, 3), "zstd, br, gzip", "What is offered, the best first"),
        Key::new("types", Kind::List(&TYPE, 200), TYPES_TEXT, "Media types that are compressed"),
        Key::new(
            "min_bytes",
            Kind::Integer { min: 0, max: 1 << 30 },
            "1024",
            "Answers of fewer bytes stay as they are; those that do not tell their length are compressed",
        ),
        Key::new(
            "levels",
            Kind::Object(&[
                Key::new("zstd", LEVEL, "3", "Of zstd"),
                Key::new("br", LEVEL, "4", "Of Brotli"),
                Key::new("gzip", LEVEL, "4", "Of gzip"),
            ]),
            "fast ones",
            "How hard each tries: a higher level takes more time for fewer bytes",
        ),
    ],
    example: "algorithms: [br, gzip]\ntypes: [\"text/*\", application/json, \"application/*+json\"]\nmin_bytes: 500\nlevels: {br: 5}",
    reasons: &[],
};

#[derive(Debug)]
pub(super) struct Compress {
    codings: Vec<Coding>,
    types: Vec<Type>,
    bytes_min: u64,
    /// Of each coding, in the order of [`Coding::ALL`].
    levels: [u8; 3],
}

/// A media type, or several, in lower case.
#[derive(Debug)]
struct Type {
    begin: Box<str>,
    /// What may be between the two, if anything.
    end: Option<Box<str>>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Compress {
    for key in ["algorithms", "types"] {
        if config.has(key) && config.texts(key).is_empty() {
            let hint = "leave the key out for its default, or say `enabled: false` of the plugin";
            config.fault(key, "with nothing in it nothing would be compressed", hint, faults);
        }
    }
    let mut types = Vec::new();
    let texts = if config.has("types") { config.texts("types") } else { TYPES.to_vec() };
    for (index, text) in texts.into_iter().enumerate() {
        match Type::parse(text) {
            Some(kind) => types.push(kind),
            None => {
                let hint = "write it like application/json, text/* or application/*+json, without parameters";
                config.fault(&format!("types[{index}]"), format_args!("{text:?} is no media type"), hint, faults);
            }
        }
    }
    let mut codings: Vec<Coding> =
        config.texts("algorithms").iter().filter_map(|name| Coding::of(name.as_bytes())).collect();
    if codings.is_empty() {
        codings = Coding::ALL.to_vec();
    }
    Compress { codings, types, bytes_min: config.integer("min_bytes").unwrap_or_default(), levels: levels(config) }
}

fn levels(config: &Config<'_>) -> [u8; 3] {
    let levels = config.child("levels");
    Coding::ALL.map(|coding| {
        let default = if coding == Coding::Zstd { 3 } else { 4 };
        let level = levels.as_ref().and_then(|levels| levels.integer(coding.name()));
        level.and_then(|level| u8::try_from(level).ok()).unwrap_or(default)
    })
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (kind, rest) = text.split_once('/')?;
        let of_kind = || format!("{kind}/").into_boxed_str();
        let good = |part: &str| is_token(part.as_bytes()) && !part.contains('*');
        let parsed = match rest.strip_prefix('*') {
            Some(end) if end.is_empty() || (end.starts_with('+') && good(end)) => {
                Self { begin: of_kind(), end: Some(end.into()) }
            }
            None if good(rest) => Self { begin: text.as_str().into(), end: None },
            _ => return None,
        };
        good(kind).then_some(parsed)
    }

    fn is(&self, media_type: &[u8]) -> bool {
        let same = |part: &[u8], known: &str| part.eq_ignore_ascii_case(known.as_bytes());
        match (media_type.split_at_checked(self.begin.len()), &self.end) {
            (Some((begin, [])), None) => same(begin, &self.begin),
            (Some((begin, rest)), Some(end)) => {
                let last = rest.len().checked_sub(end.len()).and_then(|at| rest.get(at..));
                same(begin, &self.begin) && last.is_some_and(|last| same(last, end))
            }
            _ => false,
        }
    }
}

impl Compress {
    /// Asks before other plugins change what the backend is asked for.
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        request.facts.accepted = Some(Accepted::read(request.fields.get_all("accept-encoding")));
        Flow::Continue
    }

    pub fn on_response(&self, response: &mut PluginResponse<'_>) {
        let Some(content) = &response.content else { return };
        let length = length(content, response.fields);
        if !self.is_for(response.status, response.fields, length) {
            return;
        }
        response.varies_by("Accept-Encoding");
        let best = response.facts.accepted.and_then(|accepted| accepted.best(&self.codings));
        let (Some(coding), Some(content)) = (best, &mut response.content) else { return };
        if !content.any_length {
            return;
        }
        if !content.described {
            let level = self.levels[coding as usize];
            let Some(encoder) = Encoder::new(coding, level, length, &response.worker.encoders) else { return };
            content.encoder = Some(Box::new(encoder));
        }
        weaken_tag(response.fields);
        if response.status != 304 {
            response.fields.retain(|name, _| !tells_of_bytes(name) && !is_digest(name));
            response.fields.append("Content-Encoding", coding.name().as_bytes());
        }
    }

    /// Whether it would be compressed for a client that takes it. An answer that nothing has changed (304) says little of what
    /// has not, but has the tag of it.
    fn is_for(&self, status: u16, fields: &Fields, length: Option<u64>) -> bool {
        if status < 200 || matches!(status, 204..=206) || is_to_stay(fields) {
            return false;
        }
        match fields.get("content-type") {
            None => status == 304,
            Some(kind) if is_stream(kind) => false,
            Some(kind) => {
                let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
                let is_long = status == 304 || length.is_none_or(|length| length >= self.bytes_min.max(1));
                is_long && self.types.iter().any(|known| known.is(kind))
            }
        }
    }
}

/// How many bytes the body has that is sent, or described.
fn length(content: &Content, fields: &Fields) -> Option<u64> {
    match content.framing {
        Framing::Empty if content.described => fields.get("content-length").and_then(plain_number),
        Framing::Empty => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    }
}

/// Whether it says that it has a coding, is a part, or is to stay as it is.
fn is_to_stay(fields: &Fields) -> bool {
    let no_transform = |value: &[u8]| {
        let mut words = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        words.any(|word| word.eq_ignore_ascii_case(b"no-transform"))
    };
    fields.get("content-encoding").is_some()
        || fields.get("content-range").is_some()
        || fields.get_all("cache-control").any(no_transform)
}

fn tells_of_bytes(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("accept-ranges")
}

/// Other bytes that mean the same have the same weak tag, and not the same strong one (RFC 9110 section 8.8.1).
fn weaken_tag(fields: &mut Fields) {
    let strong = fields.get("etag").filter(|tag| tag.starts_with(b"\""));
    if let Some(weak) = strong.map(|tag| [b"W/", tag].concat()) {
        fields.set("ETag", &weak);
    }
}

#[cfg(test)]
mod tests;
