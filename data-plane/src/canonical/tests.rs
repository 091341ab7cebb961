use proptest::prelude::*;

use super::*;

fn canonical(raw: &str) -> Result<String, Refused> {
    path(raw.as_bytes()).map(Cow::into_owned)
}

fn name(raw: &str) -> Result<String, Refused> {
    host(raw.as_bytes()).map(|host| host.name.into_owned())
}

#[test]
fn a_canonical_path_is_borrowed() {
    for plain in ["/", "/a/b", "/a/", "/a.b/.well-known/..c", "/a;x=1/b", "/a[1]{b}|\"<>^`'()*,:@!$&=+~", "/..."] {
        assert!(matches!(path(plain.as_bytes()), Ok(Cow::Borrowed(same)) if same == plain), "{plain}");
    }
}

#[test]
fn dot_segments_go_before_matching_however_they_are_written() {
    for raw in ["/info/../private", "/info/%2e%2e/private", "/info/.%2e/private", "/info/%2E./private"] {
        assert_eq!(canonical(raw).as_deref(), Ok("/private"), "{raw}");
    }
    assert_eq!(canonical("/info/./x").as_deref(), Ok("/info/x"));
    assert_eq!(canonical("/a/b/..").as_deref(), Ok("/a/"));
    assert_eq!(canonical("/a/.").as_deref(), Ok("/a/"));
    assert_eq!(canonical("/a/..").as_deref(), Ok("/"));
    assert_eq!(canonical("/api/../admin").as_deref(), Ok("/admin"));
}

#[test]
fn segments_that_only_begin_with_dots_stay() {
    assert_eq!(canonical("/api../admin").as_deref(), Ok("/api../admin"));
    assert_eq!(canonical("/api%2e%2e/admin").as_deref(), Ok("/api../admin"));
    assert_eq!(canonical("/api%2e/admin/secret").as_deref(), Ok("/api./admin/secret"));
    assert_eq!(canonical("/.../a").as_deref(), Ok("/.../a"));
}

#[test]
fn nothing_is_above_the_root() {
    for raw in ["/..", "/../a", "/a/../..", "/%2e%2e", "/a/../../b", "//.."] {
        assert_eq!(canonical(raw), Err(Refused::PathAboveRoot), "{raw}");
    }
}

#[test]
fn repeated_slashes_are_merged_and_are_no_authority() {
    assert_eq!(canonical("//admin/x").as_deref(), Ok("/admin/x"));
    assert_eq!(canonical("///admin").as_deref(), Ok("/admin"));
    assert_eq!(canonical("/a//../b").as_deref(), Ok("/b"));
    assert_eq!(canonical("//").as_deref(), Ok("/"));
    assert_eq!(canonical("/a//").as_deref(), Ok("/a/"));
}

#[test]
fn encoded_slashes_and_backslashes_are_refused() {
    for raw in ["/public%2f..%2fadmin", "/public%2Fadmin", "/public%5cadmin", "/a%5C"] {
        assert_eq!(canonical(raw), Err(Refused::PathEncodedSlash), "{raw}");
    }
    assert_eq!(canonical("/\\admin"), Err(Refused::PathBackslash));
}

#[test]
fn double_encoding_is_never_decoded() {
    assert_eq!(canonical("/a%252fb").as_deref(), Ok("/a%252fb"));
    assert_eq!(canonical("/%252e%252e/b").as_deref(), Ok("/%252e%252e/b"));
}

#[test]
fn parameters_on_dot_segments_are_refused_and_stay_elsewhere() {
    for raw in ["/..;/admin", "/.;/admin", "/%2e%2e;/admin", "/a/..;x=1/b", "/..%3b/admin", "/.%3B"] {
        assert_eq!(canonical(raw), Err(Refused::PathDotParameter), "{raw}");
    }
    for raw in ["/;x/admin", "/a/;/b", "//;/b", "/a//;x//", "/;x/..", "/%61/;/b"] {
        assert_eq!(canonical(raw), Err(Refused::PathDotParameter), "{raw}");
    }
    assert_eq!(canonical("/admin;x").as_deref(), Ok("/admin;x"));
    assert_eq!(canonical("/app/;jsessionid=1").as_deref(), Ok("/app/;jsessionid=1"));
    assert_eq!(canonical("/public;a=b/../admin").as_deref(), Ok("/admin"));
}

#[test]
fn a_path_is_matched_without_parameters_and_goes_on_with_them() {
    for (path, bare) in [
        ("/a/b", "/a/b"),
        ("/a;x=1/b;y;z=2", "/a/b"),
        ("/a;/b;", "/a/b"),
        ("/;x", "/"),
        ("/a/;x", "/a/"),
        ("/a;x/", "/a/"),
        ("/a%3Bx", "/a%3Bx"),
    ] {
        assert_eq!(without_parameters(path), bare, "{path}");
    }
    for (path, prefix, rest) in [
        ("/a/b", "/a", "/b"),
        ("/a", "/a", ""),
        ("/a/", "/a", "/"),
        ("/a;x/b;y/c", "/a", "/b;y/c"),
        ("/a;x/b;y/c", "/a/b", "/c"),
        ("/a;x", "/a", ""),
        ("/a;x/", "/a", "/"),
        ("/a/;x", "/a", "/;x"),
        ("/;x", "", "/;x"),
    ] {
        assert_eq!(behind(path, prefix), rest, "{path} behind {prefix}");
    }
}

#[test]
fn reserved_characters_stay_encoded_and_unreserved_do_not() {
    assert_eq!(canonical("/%3f%23%3b%25%7e%41").as_deref(), Ok("/%3F%23%3B%25~A"));
    assert_eq!(canonical("/caf%c3%a9%20x").as_deref(), Ok("/caf%C3%A9%20x"));
}

#[test]
fn control_characters_are_refused_raw_or_encoded() {
    for raw in ["/a%00", "/a%0d%0a", "/%7f", "/a\r\nb", "/\0", "/\x7f", "/%41\t"] {
        assert_eq!(canonical(raw), Err(Refused::PathControl), "{raw:?}");
    }
}

#[test]
fn what_a_path_cannot_have_is_refused() {
    assert_eq!(canonical(""), Err(Refused::PathNotAbsolute));
    assert_eq!(canonical("a"), Err(Refused::PathNotAbsolute));
    assert_eq!(canonical("*"), Err(Refused::PathNotAbsolute));
    assert_eq!(canonical("/a#b"), Err(Refused::PathFragment));
    assert_eq!(canonical("/a b"), Err(Refused::PathCharacter));
    assert_eq!(canonical("/a?b"), Err(Refused::PathCharacter));
    assert_eq!(canonical("/caf\u{e9}"), Err(Refused::PathCharacter));
    assert_eq!(canonical("/%41\u{e9}"), Err(Refused::PathCharacter));
    for raw in ["/%", "/%4", "/%zz", "/a%2", "/%%32e"] {
        assert_eq!(canonical(raw), Err(Refused::PathEscape), "{raw}");
    }
}

#[test]
fn a_host_reads_the_same_in_every_spelling() {
    for raw in ["ADMIN.Example.COM", "admin.example.com.", "admin.example.com:443", "Admin.example.com.:8443"] {
        assert_eq!(name(raw).as_deref(), Ok("admin.example.com"), "{raw}");
    }
    assert_eq!(host(b"a:8443").map(|host| host.port), Ok(Some(8443)));
    assert!(matches!(host(b"a.b:1"), Ok(Host { name: Cow::Borrowed("a.b"), port: Some(1) })));
}

#[test]
fn addresses_are_hosts() {
    assert_eq!(name("127.0.0.1:80").as_deref(), Ok("127.0.0.1"));
    assert_eq!(host(b"[::1]:80"), Ok(Host { name: "[::1]".into(), port: Some(80) }));
    assert_eq!(name("[2001:DB8:0:0::1]").as_deref(), Ok("[2001:db8::1]"));
    for raw in ["[::1", "[1.2.3.4]", "[]", "[fe80::1%25eth0]", "[v1.x]"] {
        assert_eq!(name(raw), Err(Refused::HostAddress), "{raw}");
    }
    assert_eq!(name("[::1]x"), Err(Refused::HostCharacter));
}

#[test]
fn what_a_host_cannot_have_is_refused() {
    assert_eq!(name("user@a"), Err(Refused::HostUserinfo));
    assert_eq!(name("user:pass@a:80"), Err(Refused::HostUserinfo));
    for raw in ["a,b", "a b", "a/b", "a%2eb", "caf\u{e9}", "a\0", "a\\b", "*.a"] {
        assert_eq!(name(raw), Err(Refused::HostCharacter), "{raw:?}");
    }
    for raw in ["", ".", ":80"] {
        assert_eq!(name(raw), Err(Refused::HostEmpty), "{raw:?}");
    }
    for raw in ["a..b", ".a", "a.."] {
        assert_eq!(name(raw), Err(Refused::HostLabel), "{raw:?}");
    }
    for raw in ["a:", "a:0", "a:65536", "a:8o", "a:+80", "a:000080", "a:80:80", "::1"] {
        assert!(matches!(name(raw), Err(Refused::HostPort | Refused::HostEmpty)), "{raw:?}");
    }
    assert_eq!(name(&"a".repeat(64)), Err(Refused::HostLabel));
    assert_eq!(name(&["a"; 128].join(".")), Err(Refused::HostTooLong));
    assert!(name(&["a"; 127].join(".")).is_ok());
}

proptest! {
    #[test]
    fn the_canonical_path_is_its_own_canonical_form(raw in "/([a.%/;]|%2e|%2E|%25|%3b|%c3|\\.\\./|[ -~]){0,12}") {
        if let Ok(once) = canonical(&raw) {
            prop_assert!(matches!(path(once.as_bytes()), Ok(Cow::Borrowed(same)) if same == once)
                || canonical(&once).as_deref() == Ok(once.as_str()), "{} -> {:?}", once, canonical(&once));
            prop_assert!(!once.contains("//"));
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            // Taking the parameters away makes nothing that is not canonical, and no segment goes with them.
            let bare = without_parameters(&once);
            prop_assert_eq!(canonical(&bare), Ok(bare.clone().into_owned()));
            prop_assert_eq!(bare.matches('/').count(), once.matches('/').count());
        }
    }

    #[test]
    fn the_canonical_host_is_its_own_canonical_form(raw in "([aB1._:\\[\\]-]|::|::1|\\[::1\\]){0,10}") {
        if let Ok(once) = name(&raw) {
            prop_assert_eq!(name(&once), Ok(once));
        }
    }

    #[test]
    fn any_bytes_are_answered(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = path(&raw);
        let _ = host(&raw);
        let mut rooted = vec![b'/'];
        rooted.extend(raw);
        let _ = path(&rooted);
    }
}
