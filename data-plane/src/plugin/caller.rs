//! What the plugins that find out who asks have in common: where a credential is in a request, and what becomes of a
//! request whose consumer is known.

use std::borrow::Cow;

use super::{Consumer, Facts, PluginRequest, Reason, Refusal, config::Config};
use crate::{
    fields::Fields,
    forward::alias_is,
    route::{query_values, query_without},
    upstream,
};

/// Tells upstreams the name of the consumer.
pub(super) const NAME: &str = "X-Consumer-Name";

/// And its groups, with commas between them.
pub(super) const GROUPS: &str = "X-Consumer-Groups";

pub(super) static REPEATED: Reason = Reason {
    name: "credentials_repeated",
    status: 400,
    detail: "the request has more than one credential of a kind; send one",
    when: "A credential is in several places or lines, so that what checks it and what reads it might take different ones",
};

/// Where a credential may be in a request.
#[derive(Debug)]
pub(super) struct Places {
    header: Option<Box<str>>,
    query: Option<Box<str>>,
    cookie: Option<Box<str>>,
}

impl Places {
    /// As the keys `header`, `query` and `cookie` have it; in that header if none of them is there.
    pub fn read(config: &Config<'_>, header: &str) -> Self {
        let text = |key: &str| config.text(key).map(Box::from);
        let (query, cookie) = (text("query"), text("cookie"));
        let elsewhere = query.is_some() || cookie.is_some();
        Self { header: text("header").or_else(|| (!elsewhere).then(|| header.into())), query, cookie }
    }

    /// The only credential there is. `of_header` says what the value of the header of that name has of one; of a query no more than so
    /// many bytes and one are looked at.
    pub fn find<'r>(
        &self,
        request: &'r PluginRequest<'_>,
        bytes_max: usize,
        of_header: for<'v> fn(&str, &'v [u8]) -> Option<&'v [u8]>,
    ) -> Result<Option<Cow<'r, [u8]>>, Refusal> {
        let fields = &*request.fields;
        let values = |name| fields.get_all(name).filter_map(move |value| of_header(name, value));
        let header = self.header.iter().flat_map(|name| values(name));
        let cookie = self.cookie.iter().flat_map(|name| upstream::cookies(fields, name));
        let query = request.target.query().unwrap_or_default();
        let query = self.query.iter().flat_map(|name| query_values(query, name, bytes_max + 1));
        one(header.chain(cookie).map(Cow::Borrowed).chain(query.map(Cow::Owned)))
    }

    /// Removes it from headers, in any spelling of the name, and cookies. What else such a header has goes on.
    pub fn hide(&self, fields: &mut Fields, of_header: for<'v> fn(&str, &'v [u8]) -> Option<&'v [u8]>) {
        if let Some(header) = &self.header {
            fields.retain(|name, value| !alias_is(name, header) || of_header(header, value).is_none());
        }
        if let Some(cookie) = &self.cookie {
            upstream::remove_cookie(fields, cookie);
        }
    }

    /// Removes it from the query that the upstream is asked with; the rest of that stays as it is.
    pub fn hide_in_query(&self, request: &mut PluginRequest<'_>) {
        let query = self.query.as_ref().zip(request.query());
        if let Some(rest) = query.and_then(|(name, query)| query_without(query, name)) {
            request.facts.rewrite.get_or_insert_default().query = Some(rest);
        }
    }
}

/// Whether a text can stand between quotes in a challenge as it is.
pub(super) fn is_quotable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\')
}

/// Nothing, one, or a refusal if there are several.
pub(super) fn one<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Refusal> {
    let first = found.next();
    if found.next().is_some() { Err(Refusal::new(&REPEATED)) } else { Ok(first) }
}

/// The only value of a field.
pub(super) fn field<'f>(fields: &'f Fields, name: &str) -> Result<Option<&'f [u8]>, Refusal> {
    one(fields.get_all(name))
}

/// Whoever asks does not say who they are in a plugin's stead, in no spelling of the names that some upstreams take for one.
pub(super) fn forget(fields: &mut Fields) {
    fields.retain(|name, _| !is_own(name));
}

/// Whether a field is one of these, in some spelling.
pub(super) fn is_own(name: &str) -> bool {
    alias_is(name, NAME) || alias_is(name, GROUPS)
}

/// From here on it is known who asks.
pub(super) fn is_known(consumer: Consumer, fields: &mut Fields, facts: &mut Facts) {
    // A token may say nothing of whom it is about.
    if !consumer.name.is_empty() {
        fields.append(NAME, consumer.name.as_bytes());
    }
    let groups = consumer.groups.as_str();
    if !groups.is_empty() {
        fields.append(GROUPS, groups.as_bytes());
    }
    facts.consumer = Some(consumer);
}
