//! Changes as they come, put in order and decoded.

use prost::Message as _;
use rustygate_proto::v1 as wire;

use super::NAME_BYTES_MAX;
use crate::{
    fields::is_field_value,
    snapshot::{fault, fault::Faults},
};

/// The changes by kind, each list sorted by name.
#[derive(Default)]
pub(super) struct Changes<'a> {
    pub certificates: Vec<&'a wire::Change>,
    pub listeners: Vec<&'a wire::Change>,
    pub backends: Vec<&'a wire::Change>,
    pub consumers: Vec<&'a wire::Change>,
    pub plugins: Vec<&'a wire::Change>,
    pub defaults: Vec<&'a wire::Change>,
    pub routes: Vec<&'a wire::Change>,
}

/// Whether one of these, which are sorted by name, has that name.
pub(super) fn is_among(changes: &[&wire::Change], name: &str) -> bool {
    changes.binary_search_by(|change| change.name.as_str().cmp(name)).is_ok()
}

impl<'a> Changes<'a> {
    pub fn sort(changes: &'a [wire::Change], faults: &mut Faults) -> Self {
        let mut sorted = Self::default();
        for change in changes {
            match change.kind() {
                wire::Kind::Certificate => sorted.certificates.push(change),
                wire::Kind::Listener => sorted.listeners.push(change),
                wire::Kind::Backend => sorted.backends.push(change),
                wire::Kind::Consumer => sorted.consumers.push(change),
                wire::Kind::Plugin => sorted.plugins.push(change),
                wire::Kind::Route => sorted.routes.push(change),
                wire::Kind::Defaults => sorted.defaults.push(change),
                wire::Kind::Unspecified => {
                    faults.enter(wire::Kind::Unspecified, &change.name);
                    let message = format_args!("this version knows no resource of kind {}", change.kind);
                    faults.add_with_hint(fault::UNREADABLE, "", message, "update this program, or remove the resource");
                }
            }
        }
        let Self { certificates, listeners, backends, consumers, plugins, defaults, routes } = &mut sorted;
        for list in [certificates, listeners, backends, consumers, plugins, defaults, routes] {
            list.sort_by(|left, right| left.name.cmp(&right.name));
            // Of equal names the sort kept the order: the last one stays.
            list.dedup_by(|later, earlier| {
                let same = later.name == earlier.name;
                if same {
                    *earlier = *later;
                }
                same
            });
        }
        sorted
    }
}

/// The resource of a change, if it is what the change says.
pub(super) fn decode(kind: wire::Kind, name: &str, bytes: &[u8], faults: &mut Faults) -> Option<wire::resource::Kind> {
    if let Err(message) = check_name(name) {
        faults.add(fault::BAD_VALUE, "name", message);
    }
    let resource = match wire::Resource::decode(bytes) {
        Ok(resource) => resource,
        Err(error) => {
            faults.add(fault::UNREADABLE, "", format_args!("the resource does not decode: {error}"));
            return None;
        }
    };
    match resource.key() {
        None => {
            let hint = "update this program, or remove the resource";
            faults.add_with_hint(
                fault::UNREADABLE,
                "",
                "the resource is of a kind that this version does not know",
                hint,
            );
        }
        Some(key) if key != (kind, name) => {
            let (found, found_name) = (key.0.noun(), key.1);
            let message = format_args!("the resource is {found} {found_name:?}, not {} {name:?}", kind.noun());
            faults.add(fault::UNREADABLE, "", message);
        }
        Some(_) => {}
    }
    resource.kind
}

/// Names go into header fields, logs and URLs of the console.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("the name is {} bytes long; at most {NAME_BYTES_MAX} are allowed", name.len()));
    }
    if !is_field_value(name.as_bytes()) || name.chars().any(char::is_control) {
        return Err("the name has a control character, or white space at an end".to_owned());
    }
    Ok(())
}
