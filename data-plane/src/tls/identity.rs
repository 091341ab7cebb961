//! What an upstream is told of a client's certificate, in the field that Envoy made common:
//!
//! ```text
//! X-Forwarded-Client-Cert: Hash=<SHA-256 of the certificate, hex>;Subject="CN=a,O=b";URI=spiffe://c/d;DNS=e.f
//! ```
//!
//! A certificate's names are what its owner asked for, not what its authority thought about, so nothing in them may end
//! a value or begin a new one. In the subject every byte that is not plain is written as `\` and two hex digits, as RFC
//! 4514 allows, quotes and separators included. Of the alternative names those with a NUL, a control character, a quote
//! or anything else that such a name cannot have are left out: a name that is cut or mended could be another's.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::certificate::is_host;

/// The field that carries it. What a client sends under this name, or one that a server may take for it, is dropped.
pub const FIELD: &str = "X-Forwarded-Client-Cert";

/// The most bytes of its value; names that do not fit are left out.
pub const BYTES_MAX: usize = 4 << 10;

/// The most bytes of the subject; a longer one is left out.
const SUBJECT_BYTES_MAX: usize = 1 << 10;

/// The value of [`FIELD`] for a chain that was verified, its own certificate first. It is a valid field value whatever is
/// in the certificate. `None` if there is no certificate. Made once for each connection.
#[must_use]
pub fn identity(chain: &[CertificateDer<'_>]) -> Option<String> {
    let own = chain.first()?;
    let mut value = String::with_capacity(256);
    value.push_str("Hash=");
    for byte in digest(&SHA256, own).as_ref() {
        let _ = write!(value, "{byte:02x}");
    }
    let Ok((_, certificate)) = X509Certificate::from_der(own) else { return Some(value) };
    let subject = subject(&certificate);
    if subject.len() <= SUBJECT_BYTES_MAX {
        let _ = write!(value, ";Subject=\"{subject}\"");
    }
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Some(value) };
    for name in &extension.value.general_names {
        let (key, name) = match name {
            GeneralName::URI(uri) if is_uri(uri) => ("URI", *uri),
            GeneralName::DNSName(name) if is_host(name) => ("DNS", *name),
            _ => continue,
        };
        // What separates values makes one need quotes.
        let quote = if name.contains([',', ';', '=']) { "\"" } else { "" };
        if value.len() + key.len() + name.len() + 4 <= BYTES_MAX {
            let _ = write!(value, ";{key}={quote}{name}{quote}");
        }
    }
    Some(value)
}

fn is_uri(uri: &str) -> bool {
    !uri.is_empty() && uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// The subject as RFC 4514 has it: the most specific part first.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = certificate.subject().iter_rdn().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        for (nth, attribute) in part.iter().enumerate() {
            if index + nth > 0 {
                text.push(if nth > 0 { '+' } else { ',' });
            }
            let oid = attribute.attr_type().to_id_string();
            text.push_str(short_name(&oid).unwrap_or(&oid));
            text.push('=');
            for &byte in attribute.as_slice() {
                if byte.is_ascii_alphanumeric() || b" -_.:/@*'()".contains(&byte) {
                    text.push(char::from(byte));
                } else {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
        }
    }
    text
}

fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return None,
    })
}
