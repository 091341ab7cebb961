//! The part of a request that tells clients apart, and its hash: the same in every process and version.

use std::net::IpAddr;

use crate::{fields::Fields, snapshot::HashOn};

/// What a request can be told apart by.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'r> {
    /// The request's fields.
    pub fields: &'r Fields,
    /// Its canonical path.
    pub path: &'r str,
    /// Whom it comes from.
    pub client: IpAddr,
}

/// The hash of that part, or `None` if the request has none. Different `purpose`s give hashes that have nothing to do
/// with each other.
pub fn hash(purpose: &str, on: &HashOn, asker: Asker<'_>) -> Option<u64> {
    let digest = |bytes: &[u8]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(purpose.as_bytes()).update(&[0]).update(bytes);
        let mut hash = [0; 8];
        hasher.finalize_xof().fill(&mut hash);
        u64::from_le_bytes(hash)
    };
    match on {
        HashOn::Header(name) => asker.fields.get(name).map(digest),
        HashOn::Cookie(name) => cookie(asker.fields, name).map(digest),
        HashOn::ClientIp => Some(match asker.client.to_canonical() {
            IpAddr::V4(address) => digest(&address.octets()),
            IpAddr::V6(address) => digest(&address.octets()),
        }),
        HashOn::Path => Some(digest(asker.path.as_bytes())),
    }
}

/// The first value of a cookie.
pub fn cookie<'f>(fields: &'f Fields, name: &str) -> Option<&'f [u8]> {
    cookies(fields, name).next()
}

/// Every value of a cookie.
pub fn cookies<'f, 'n>(fields: &'f Fields, name: &'n str) -> impl Iterator<Item = &'f [u8]> + use<'f, 'n> {
    let crumbs = fields.get_all("cookie").flat_map(|line| line.split(|&byte| byte == b';'));
    crumbs.filter_map(move |crumb| of_crumb(crumb, name))
}

/// Takes a cookie out of every line that has it.
pub fn remove_cookie(fields: &mut Fields, name: &str) {
    let lines: Vec<Vec<u8>> = fields
        .get_all("cookie")
        .map(|line| {
            let crumbs = line.split(|&byte| byte == b';');
            let others = crumbs.filter(|crumb| of_crumb(crumb, name).is_none()).map(<[u8]>::trim_ascii);
            others.collect::<Vec<_>>().join(&b"; "[..])
        })
        .collect();
    fields.remove("cookie");
    lines.iter().filter(|line| !line.is_empty()).for_each(|line| fields.append("Cookie", line));
}

/// The value of one part of the field, if it is of that cookie.
fn of_crumb<'f>(crumb: &'f [u8], name: &str) -> Option<&'f [u8]> {
    let crumb = crumb.trim_ascii();
    let (key, value) = crumb.split_at(memchr::memchr(b'=', crumb)?);
    (key == name.as_bytes()).then(|| &value[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append(name, value.as_bytes());
        }
        fields
    }

    #[test]
    fn cookies_are_found_in_any_line_and_by_their_whole_name() {
        let fields = fields(&[("Cookie", "a=1; session=x=y ;b=2"), ("cookie", "c=3; a=4; d; session2=z")]);
        let found = |name| cookie(&fields, name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(found("a").as_deref(), Some("1"));
        assert_eq!(found("session").as_deref(), Some("x=y"));
        assert_eq!(found("c").as_deref(), Some("3"));
        assert_eq!([found("sess"), found("d"), found("e")], [None, None, None]);
    }

    #[test]
    fn hashes_stay_what_they_are() {
        let fields = fields(&[("x-user", "ann"), ("cookie", "s=1")]);
        let asker = Asker { fields: &fields, path: "/a", client: "::ffff:10.0.0.1".parse().expect("an address") };
        let of = |on: &HashOn| hash("ring", on, asker);
        assert_eq!(of(&HashOn::Header("X-User".into())), of(&HashOn::Header("x-user".into())));
        assert_eq!(of(&HashOn::Header("x-none".into())), None);
        assert_eq!(of(&HashOn::Cookie("none".into())), None);
        let v4 = Asker { client: "10.0.0.1".parse().expect("an address"), ..asker };
        assert_eq!(hash("ring", &HashOn::ClientIp, v4), of(&HashOn::ClientIp));
        assert_ne!(hash("split", &HashOn::Path, asker), of(&HashOn::Path));
        // Proxies of other versions must agree.
        assert_eq!(of(&HashOn::Path), Some(4_412_469_234_142_224_191));
    }
}
