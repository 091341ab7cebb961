//! Where somebody publishes keys: what a configuration says of it, and how they are fetched.
//!
//! A fetch is one GET on a connection of its own, by HTTP/1.1, over the TLS that endpoints are spoken to with. It follows
//! no redirect, since that would be a place that nobody configured.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::keys::{KeySet, Published, SetError};
use crate::{
    health,
    http1::{
        body::{BodyError, BodyReader, Piece},
        head::{HeadError, ResponseHead},
    },
    plugin::{config::Config, server},
    resolve::Names,
    snapshot::{
        Endpoint, Id, Protocol,
        compile::target::{self, Place},
        fault::Faults,
    },
    stream::Stream,
};

/// The most bytes of a set of keys.
pub const SET_BYTES_MAX: usize = 1 << 20;

/// The most bytes of a URL.
pub const URL_BYTES_MAX: usize = 2048;

/// How often, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// From one fetch to the next.
    pub refresh: Duration,
    /// For a whole fetch.
    pub timeout: Duration,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Source {
    /// The same for the same URL and authorities, whatever the rest of a plugin says.
    pub id: Id,
    /// For logs and metrics: without its query.
    pub url: Box<str>,
    /// See there.
    pub terms: Terms,
    endpoint: Endpoint,
    /// Path and query.
    target: Box<str>,
}

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Too slow.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// None of 200 to 299.
    #[error("status {0}")]
    Status(u16),
    /// No HTTP.
    #[error("{0}")]
    Head(#[from] HeadError),
    /// Likewise.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// [`SET_BYTES_MAX`]
    #[error("the answer has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
    /// Something else than keys.
    #[error("{0}")]
    Set(#[from] SetError),
}

/// What a configuration says of it; `None` if nothing, or after a fault.
pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Option<Arc<Source>> {
    let Some(url) = config.text("jwks_url") else {
        for key in ["jwks_ca", "jwks_refresh", "jwks_timeout"].into_iter().filter(|key| config.has(key)) {
            config.fault(key, "there is no `jwks_url` that this is for", "add it, or leave this out", faults);
        }
        return None;
    };
    let (place, target) = match split(url) {
        Ok(parts) => parts,
        Err((message, hint)) => {
            config.fault("jwks_url", message, &hint, faults);
            return None;
        }
    };
    let keys = server::Keys { url: "jwks_url", ca: "jwks_ca", scheme: "https" };
    let tls = server::tls(config, keys, &place.host, place.https, faults)?;
    let endpoint = place.endpoint(1, Protocol::Http1, tls);
    let url = format!("{}://{}{target}", endpoint.scheme(), endpoint.authority);
    let terms = Terms { refresh: config.duration("jwks_refresh")?, timeout: config.duration("jwks_timeout")? };
    let id = Id::of("published keys", &format!("{:016x} {url}", endpoint.id.0));
    let url = url.split_once('?').map_or(&*url, |(url, _)| url).into();
    Some(Arc::new(Source { id, url, terms, endpoint, target }))
}

/// Where a URL leads, and the path and query there; or what is wrong with it, and what to do.
fn split(url: &str) -> Result<(Place, Box<str>), (String, String)> {
    const HINT: &str = "write it like https://login.example.com/.well-known/jwks.json";
    let refused = |message: &str, hint: &str| Err((message.to_owned(), hint.to_owned()));
    let Some((scheme, rest)) = url.split_once("://") else { return refused("this is no URL", HINT) };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return refused("there is a user or a password in the URL", "leave it out: keys are published for everyone");
    }
    if target.contains('#') {
        return refused("there is a fragment in the URL", "end the URL before it");
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refused("there is a character in the URL that none has", "percent-encode it, as in %20");
    }
    let place = target::parse(&format!("{scheme}://{authority}"));
    let place = place.map_err(|error| (error.to_string(), HINT.to_owned()))?;
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((place, format!("{slash}{target}").into()))
}

impl Source {
    /// The host, if its addresses have to be asked for.
    pub fn host_name(&self) -> Option<&str> {
        self.endpoint.host.parse::<std::net::IpAddr>().is_err().then_some(&*self.endpoint.host)
    }

    /// Asks for the keys.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, names: &Names) -> Result<Published, FetchError> {
        let timeout = self.terms.timeout;
        let body = tokio::time::timeout(timeout, self.get(names)).await;
        Ok(KeySet::from_json(&body.map_err(|_| FetchError::Timeout(timeout))??)?)
    }

    async fn get(&self, names: &Names) -> Result<Bytes, FetchError> {
        let mut stream = health::connect(&self.endpoint, names).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: RustyGate\r\nAccept: application/jwk-set+json, application/json\r\n\
             Accept-Encoding: identity\r\nConnection: close\r\n\r\n",
            self.target, self.endpoint.authority
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut input = BytesMut::with_capacity(16 << 10);
        let mut head = ResponseHead::default();
        // Interim answers say nothing.
        while head.status < 200 {
            match head.parse(&input, "GET")? {
                Some(bytes) => input.advance(bytes),
                None if stream.read_buf(&mut input).await? > 0 => {}
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
        if head.status >= 300 {
            return Err(FetchError::Status(head.status));
        }
        read_body(&mut stream, input, BodyReader::new(head.framing)).await
    }
}

async fn read_body(stream: &mut Stream, mut input: BytesMut, mut reader: BodyReader) -> Result<Bytes, FetchError> {
    let mut body = BytesMut::new();
    loop {
        match reader.next(&mut input)? {
            Piece::Data(bytes) if body.len() + bytes > SET_BYTES_MAX => return Err(FetchError::TooLarge),
            Piece::Data(bytes) => {
                body.extend_from_slice(&input[..bytes]);
                reader.took(&mut input, bytes);
            }
            Piece::More if reader.known_rest().is_some_and(|rest| rest > SET_BYTES_MAX as u64) => {
                return Err(FetchError::TooLarge);
            }
            Piece::More => {
                if stream.read_buf(&mut input).await? == 0 {
                    reader.closed()?;
                }
            }
            Piece::End => return Ok(body.freeze()),
        }
    }
}

#[cfg(test)]
mod tests;
