//! What a proxy changes in the heads that pass through it: hop-by-hop fields end here, identities of the gateway
//! cannot be forged, and the upstream learns who the client is.

use std::{io, net::IpAddr};

use http::HeaderMap;

use crate::{
    fields::Fields,
    http1::{
        Framing, Version,
        head::{Connection, RequestHead, defines_body},
        write,
    },
    http2, tls,
};

/// The most entries of an `X-Forwarded-For` or `Forwarded` chain that are believed and passed on; the oldest go first.
const FORWARDED_FOR_MAX: usize = 32;

/// Addresses of proxies in front of this one that tell the truth about their clients.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<(IpAddr, u8)>);

impl TrustedProxies {
    /// Parses "10.0.0.0/8" or "::1".
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse_one(text: &str) -> Result<(IpAddr, u8), String> {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is not an address or a CIDR block"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = if bits.is_empty() {
            most
        } else {
            bits.parse().ok().filter(|&bits| bits <= most).ok_or_else(|| format!("{text:?} has a bad prefix length"))?
        };
        Ok(match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && bits >= 96 => (v4, bits - 96),
            _ => (address, bits),
        })
    }

    /// All of these.
    #[must_use]
    pub fn new(blocks: Vec<(IpAddr, u8)>) -> Self {
        Self(blocks)
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|&(block, bits)| match (address, block) {
            (IpAddr::V4(address), IpAddr::V4(block)) => {
                let differ = u32::from(address) ^ u32::from(block);
                differ.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(address), IpAddr::V6(block)) => {
                let differ = u128::from(address) ^ u128::from(block);
                differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
            }
            _ => false,
        })
    }
}

/// What the gateway knows of the client of a request, beyond its address.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    /// The chain before the peer, as trusted proxies told it; empty for a direct client.
    pub chain: Vec<u8>,
    /// `Forwarded` elements before the peer's, from a trusted proxy that uses that field.
    pub elements: Vec<u8>,
    /// The scheme the client used, if a trusted proxy told another than this connection's.
    pub proto: Option<&'static str>,
    /// The host the client asked for, if a trusted proxy told it.
    pub host: Vec<u8>,
    /// The client: the right-most address that is not a trusted proxy's.
    pub client: Option<IpAddr>,
}

impl Forwarded {
    fn clear(&mut self) {
        self.chain.clear();
        self.elements.clear();
        self.host.clear();
        self.proto = None;
        self.client = None;
    }

    /// Reads what the peer says of its client: nothing unless it is trusted, which is told.
    pub fn read(&mut self, fields: &Fields, peer: IpAddr, trusted: &TrustedProxies) -> bool {
        self.clear();
        self.client = Some(peer);
        if trusted.0.is_empty() || !trusted.contains(peer) {
            return false;
        }
        for value in fields.get_all("x-forwarded-for") {
            join(&mut self.chain, value);
        }
        keep_nearest(&mut self.chain);
        for value in fields.get_all("forwarded") {
            join(&mut self.elements, value);
        }
        keep_nearest(&mut self.elements);
        self.proto = match fields.get("x-forwarded-proto") {
            Some(b"https") => Some("https"),
            Some(b"http") => Some("http"),
            _ => None,
        };
        if let Some(host) = fields.get("x-forwarded-host") {
            self.host.extend_from_slice(host);
        }
        let mut client = right_most_untrusted(&self.elements, element_address, trusted);
        if !self.chain.is_empty() {
            let chained = right_most_untrusted(&self.chain, bare_address, trusted);
            // A proxy that keeps one of the two lets the other through as its client wrote it.
            if client != chained {
                self.elements.clear();
            }
            client = chained;
        }
        self.client = Some(client.unwrap_or(peer));
        true
    }
}

fn join(list: &mut Vec<u8>, value: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value);
}

/// Cuts a chain to its nearest entries. From its end, in one pass: it is as long as a client cares to make it.
fn keep_nearest(chain: &mut Vec<u8>) {
    let Some(comma) = memchr::memrchr_iter(b',', chain).nth(FORWARDED_FOR_MAX - 1) else { return };
    let blanks = chain[comma + 1..].iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    chain.drain(..=comma + blanks);
}

/// Walks the chain from the nearest hop; a hop that is no address ends the trust.
fn right_most_untrusted(
    chain: &[u8],
    address: impl Fn(&str) -> Option<IpAddr>,
    trusted: &TrustedProxies,
) -> Option<IpAddr> {
    let mut client = None;
    for entry in chain.rsplit(|&byte| byte == b',') {
        let Some(address) = std::str::from_utf8(entry).ok().and_then(|entry| address(entry.trim())) else {
            break;
        };
        client = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// The address of an entry of X-Forwarded-For; some proxies write the port beside it.
fn bare_address(entry: &str) -> Option<IpAddr> {
    let bracketed = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    let address = match (bracketed, entry.split_once(':')) {
        (Some(inside), _) => inside,
        (None, Some((address, port))) if !port.contains(':') => address,
        _ => entry,
    };
    address.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The address of an element of Forwarded: `for="[2001:db8::1]:4711";proto=https` (RFC 7239 section 4).
fn element_address(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    bare_address(node.trim_matches('"'))
}

/// What becomes of a field at this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Goes on.
    Keep,
    /// Goes on, even if the sender nominates it as hop-by-hop: taking it away would change what is asked.
    Protected,
    /// Ends here, once it was seen for what it is.
    Drop,
    /// Says who the client is, which only a trusted proxy may; ends here.
    Identity,
    /// Is the gateway's own to say.
    Own,
}

/// Removes from a request, before anything is decided by it, what its sender may not say and what the upstream will
/// not see because the sender nominates it.
pub fn admit_request(fields: &mut Fields, connection: &Connection, trusted: bool) {
    fields.retain(|name, _| match request_fate(name) {
        Fate::Keep => !connection.nominates(name),
        Fate::Protected | Fate::Drop => true,
        Fate::Identity => trusted,
        Fate::Own => false,
    });
}

/// Removes from an admitted request what must not reach the upstream. Afterwards the fields are end-to-end ones only;
/// the gateway writes Host, framing, connection and identity itself.
pub fn sanitise_request(fields: &mut Fields) {
    fields.retain(|name, _| matches!(request_fate(name), Fate::Keep | Fate::Protected));
}

/// Removes from a response what must not reach the client. `keep_length` where the length field describes a body
/// that is not sent (HEAD, 304).
pub fn sanitise_response(fields: &mut Fields, connection: &Connection, keep_length: bool) {
    fields.retain(|name, _| match response_fate(name) {
        Fate::Keep => !connection.nominates(name),
        Fate::Protected => true,
        Fate::Drop => keep_length && name.eq_ignore_ascii_case("content-length"),
        Fate::Identity | Fate::Own => false,
    });
}

/// Looks at the first letter before anything else: nearly all fields are decided by it.
fn request_fate(name: &str) -> Fate {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let begins = |prefix: &str| alias_begins(name, prefix);
    match name.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'a') if is("authorization") => Fate::Protected,
        Some(b'c') => {
            if is("connection") || alias_is(name, "content-length") {
                Fate::Drop
            } else if is("cookie") || begins("content-") {
                Fate::Protected
            } else {
                Fate::Keep
            }
        }
        Some(b'e') if is("expect") => Fate::Drop,
        Some(b'f') if is("forwarded") => Fate::Identity,
        Some(b'h') if is("host") || is("http2-settings") => Fate::Drop,
        Some(b'k') if is("keep-alive") => Fate::Drop,
        Some(b'p') if is("proxy-connection") || is("proxy-authorization") || is("proxy-authenticate") => Fate::Drop,
        // CGI makes HTTP_PROXY of it, which many a client library takes for its proxy.
        Some(b'p') if is("proxy") => Fate::Own,
        Some(b't') if is("te") || alias_is(name, "transfer-encoding") => Fate::Drop,
        Some(b'u') if is("upgrade") => Fate::Drop,
        Some(b'x') if begins("x-rustygate-") => Fate::Own,
        Some(b'x') if begins("x-forwarded-") || alias_is(name, "x-real-ip") => Fate::Identity,
        _ => Fate::Keep,
    }
}

fn response_fate(name: &str) -> Fate {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'c') => {
            if is("connection") || alias_is(name, "content-length") {
                Fate::Drop
            } else if alias_begins(name, "content-") || is("cache-control") {
                Fate::Protected
            } else {
                Fate::Keep
            }
        }
        Some(b'k') if is("keep-alive") => Fate::Drop,
        Some(b'p') if is("proxy-connection") || is("proxy-authenticate") => Fate::Drop,
        Some(b's') if is("set-cookie") => Fate::Protected,
        Some(b't') if is("te") || alias_is(name, "transfer-encoding") => Fate::Drop,
        Some(b'u') if is("upgrade") => Fate::Drop,
        Some(b'x') if alias_begins(name, "x-rustygate-") => Fate::Own,
        _ => Fate::Keep,
    }
}

/// Equal without case, and whatever is neither letter nor digit counting as `-`: CGI and its kind read all of these as
/// one name.
pub fn alias_is(name: &str, known: &str) -> bool {
    name.len() == known.len() && alias_begins(name, known)
}

/// The same for the beginning of a name.
pub fn alias_begins(name: &str, known: &str) -> bool {
    let other = |byte: u8| !byte.is_ascii_alphanumeric();
    name.len() >= known.len()
        && name
            .bytes()
            .zip(known.bytes())
            .all(|(byte, known)| byte.eq_ignore_ascii_case(&known) || (other(byte) && other(known)))
}

/// Who asked, and for what: what the gateway writes into the upstream's head besides the client's own fields.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// For the Host field: canonical, with the port if the client named one.
    pub host: &'a str,
    /// The host that the client asked for, where a plugin has put another in its place.
    pub asked_host: &'a str,
    /// The peer's address as text.
    pub peer: &'a str,
    /// What trusted proxies said.
    pub forwarded: &'a Forwarded,
    /// The client came over TLS; then this is what its certificate says of it, if it showed one.
    pub tls: Option<Option<&'a str>>,
    /// Whether the connection is to be upgraded to a WebSocket.
    pub upgrade: bool,
}

/// Writes the header section of a request that goes upstream by HTTP/1.1, with its empty line.
pub fn write_request_fields(out: &mut Vec<u8>, request: &RequestHead, identity: &Identity<'_>) {
    write::field(out, "Host", identity.host.as_bytes());
    for (name, value) in request.fields.iter() {
        write::field(out, name, value);
    }
    match request.framing {
        // A method that defines a body says that it has none.
        Framing::Empty if defines_body(&request.method) => {
            write::field(out, "Content-Length", b"0");
        }
        framing => write::framing_field(out, framing),
    }
    if request.expects_continue && request.framing != Framing::Empty {
        write::field(out, "Expect", b"100-continue");
    }
    if identity.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if request.wants_trailers {
        out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
    }
    identity_fields(identity, |name, value| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        value.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b"\r\n");
    });
    out.extend_from_slice(b"\r\n");
}

/// Adds the fields of a request that goes upstream by HTTP/2.
///
/// # Errors
/// `InvalidData` for what cannot stand there; it was checked when it came, so there is none.
pub fn add_request_fields(map: &mut HeaderMap, request: &RequestHead, identity: &Identity<'_>) -> io::Result<()> {
    http2::head::append_all(map, &request.fields)?;
    match request.framing {
        Framing::Length(length) => drop(map.insert(http::header::CONTENT_LENGTH, length.into())),
        // As by HTTP/1.1: a method that defines a body says that it has none.
        Framing::Empty if defines_body(&request.method) => drop(map.insert(http::header::CONTENT_LENGTH, 0.into())),
        Framing::Empty | Framing::Chunked | Framing::UntilClose => {}
    }
    if request.expects_continue && request.framing != Framing::Empty {
        http2::head::append(map, "expect", b"100-continue")?;
    }
    if request.wants_trailers {
        http2::head::append(map, "te", b"trailers")?;
    }
    let mut added = Ok(());
    identity_fields(identity, |name, value| {
        let result = http2::head::append(map, name, &value.concat());
        if added.is_ok() {
            added = result;
        }
    });
    added
}

/// Every field that says who the client is, with its value in parts.
pub fn identity_fields(identity: &Identity<'_>, mut field: impl FnMut(&str, &[&[u8]])) {
    let forwarded = identity.forwarded;
    let peer = identity.peer.as_bytes();
    if forwarded.chain.is_empty() {
        field("X-Forwarded-For", &[peer]);
    } else {
        field("X-Forwarded-For", &[&forwarded.chain, b", ", peer]);
    }
    if let Some(Some(certificate)) = identity.tls {
        field(tls::identity::FIELD, &[certificate.as_bytes()]);
    }
    let proto = forwarded.proto.unwrap_or(if identity.tls.is_some() { "https" } else { "http" });
    field("X-Forwarded-Proto", &[proto.as_bytes()]);
    let host = if forwarded.host.is_empty() { identity.asked_host.as_bytes() } else { &forwarded.host };
    field("X-Forwarded-Host", &[host]);
    if !forwarded.elements.is_empty() {
        let (open, close): (&[u8], &[u8]) =
            if identity.peer.contains(':') { (b"\"[", b"]\";proto=") } else { (b"", b";proto=") };
        field("Forwarded", &[&forwarded.elements, b", for=", open, peer, close, proto.as_bytes()]);
    }
}

/// How a response goes to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How the body is framed on the client's connection.
    pub framing: Framing,
    /// Whether the client's connection stays open.
    pub keep_alive: bool,
}

impl Reply {
    /// With a body framed so, to a client that speaks `version` and lets the connection stay if `keep_alive`.
    #[must_use]
    pub fn to(framing: Framing, version: Version, keep_alive: bool) -> Self {
        match (framing, version) {
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => {
                Self { framing: Framing::UntilClose, keep_alive: false }
            }
            (Framing::Chunked | Framing::UntilClose, Version::Http11 | Version::Http2) => {
                Self { framing: Framing::Chunked, keep_alive }
            }
            (framing, _) => Self { framing, keep_alive },
        }
    }

    /// Writes the fields that tell framing and persistence.
    pub fn write(self, out: &mut Vec<u8>, version: Version, bodyless: bool) {
        match self.framing {
            Framing::Empty if !bodyless => write::field(out, "Content-Length", b"0"),
            framing => write::framing_field(out, framing),
        }
        match (self.keep_alive, version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11 | Version::Http2) => {}
        }
    }
}

#[cfg(test)]
mod tests;
