//! Heads of messages from and to upstreams, as `h2` has them. It has checked the pseudo-fields and refused the
//! connection's own fields (RFC 9113 section 8.2.2); what a value may be, and how many there may be, is checked here.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use crate::{
    fields::{Fields, is_field_value},
    http1::{
        Framing, Version,
        head::{FIELDS_MAX, HeadError, ResponseHead, plain_number},
    },
};

/// Reads the head of an answer to a request of that method. `bodyless` if the stream's end came with it. Returns how many
/// bytes the body has, if that is known.
///
/// # Errors
/// [`HeadError`]; it ends the stream.
pub fn read_response(
    head: &mut ResponseHead,
    status: StatusCode,
    map: &HeaderMap,
    bodyless: bool,
    method: &str,
) -> Result<Option<u64>, HeadError> {
    head.clear();
    head.version = Version::Http2;
    head.status = status.as_u16();
    if map.len() > FIELDS_MAX {
        return Err(HeadError::TooLarge);
    }
    let mut length = None;
    for (name, value) in map {
        let (name, value) = (name.as_str(), value.as_bytes());
        if !is_field_value(value) {
            return Err(HeadError::Malformed);
        }
        if name == "content-length" {
            if length.is_some() {
                return Err(HeadError::ContentLength);
            }
            length = Some(plain_number(value).ok_or(HeadError::ContentLength)?);
        }
        head.fields.append(name, value);
    }
    let bodyless = bodyless || method == "HEAD" || matches!(head.status, 100..200 | 204 | 304);
    head.framing = match length {
        _ if bodyless => Framing::Empty,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    Ok(length.filter(|_| !bodyless))
}

/// A request's head: all of it but its fields.
///
/// # Errors
/// `InvalidData` for a target that cannot stand in HTTP/2.
pub fn request(
    method: &str,
    scheme: &str,
    authority: &str,
    path: [&str; 2],
    query: Option<&str>,
) -> io::Result<Request<()>> {
    let mut target = path.concat();
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build().map_err(invalid)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(invalid)?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

/// Reads a trailer section.
///
/// # Errors
/// `InvalidData` for what could not stand in HTTP/1.1.
pub fn read_trailers(trailers: &mut Fields, map: &HeaderMap) -> io::Result<()> {
    if map.len() > FIELDS_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for (name, value) in map {
        if !is_field_value(value.as_bytes()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        trailers.append(name.as_str(), value.as_bytes());
    }
    Ok(())
}

/// Adds every field line; their values share one piece of memory.
///
/// # Errors
/// `InvalidData` for what cannot stand in HTTP/2.
pub fn append_all(map: &mut HeaderMap, fields: &Fields) -> io::Result<()> {
    // One more, for a length.
    map.reserve(fields.len() + 1);
    let values = Bytes::copy_from_slice(fields.values());
    for (name, place) in fields.places() {
        let (name, mut value) =
            (field_name(name)?, HeaderValue::from_maybe_shared(values.slice(place)).map_err(invalid)?);
        value.set_sensitive(hardly_repeats(name.as_str()));
        map.try_append(name, value).map_err(invalid)?;
    }
    Ok(())
}

/// Whether nearly every message has another value there. Such values must not go into the connection's dynamic table: they
/// drive out what does repeat, and each new one is compared with all of them. (`h2` knows by itself of those that RFC 9110
/// defines, and keeps out what is marked as sensitive.)
fn hardly_repeats(name: &str) -> bool {
    matches!(
        name,
        "x-rustygate-duration-ms"
            | "x-request-id"
            | "x-correlation-id"
            | "x-forwarded-for"
            | "x-real-ip"
            | "forwarded"
            | "traceparent"
            | "tracestate"
            | "b3"
            | "x-b3-traceid"
            | "x-b3-spanid"
            | "x-b3-parentspanid"
            | "x-amzn-trace-id"
            | "x-cloud-trace-context"
            | "x-response-time"
            | "x-runtime"
            | "server-timing"
            | "cf-ray"
            | "content-range"
            | "grpc-timeout"
            | "idempotency-key"
    )
}

/// The gateway's own names are there already, in lower case.
fn field_name(name: &str) -> io::Result<HeaderName> {
    match name {
        "X-RustyGate-Backend" => Ok(HeaderName::from_static("x-rustygate-backend")),
        "X-RustyGate-Duration-ms" => Ok(HeaderName::from_static("x-rustygate-duration-ms")),
        name => HeaderName::from_bytes(name.as_bytes()).map_err(invalid),
    }
}

/// Adds a field line.
///
/// # Errors
/// `InvalidData` for what cannot stand in HTTP/2.
pub fn append(map: &mut HeaderMap, name: &str, value: &[u8]) -> io::Result<()> {
    let (name, mut value) = (field_name(name)?, HeaderValue::from_bytes(value).map_err(invalid)?);
    value.set_sensitive(hardly_repeats(name.as_str()));
    map.try_append(name, value).map_err(invalid)?;
    Ok(())
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
