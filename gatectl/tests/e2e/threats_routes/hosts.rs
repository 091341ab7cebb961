//! Hosts that one reader takes for another than the next.

use std::fmt::Write as _;

use super::Site;
use crate::harness::Client;

/// `admin.example.com` among so many hosts in all; every other host of the world is the public's.
fn manifest(hosts: usize) -> String {
    let mut routes = "routes:\n- {name: public, path: /, backend: public}\n".to_owned();
    routes.push_str("- {name: admin, host: admin.example.com, path: /, backend: admin}\n");
    let mut others = (1..hosts).map(|number| format!("h{number}.example.com")).collect::<Vec<_>>();
    for (index, chunk) in others.chunks_mut(100).enumerate() {
        let _ = writeln!(routes, "- {{name: o{index}, hosts: [{}], path: /, backend: other}}", chunk.join(", "));
    }
    routes
}

/// Caddy GHSA-x76f-jf84-rqj8: with more than a hundred hosts another search was used, which minded the case.
#[tokio::test]
async fn a_host_is_found_in_every_spelling_among_any_number_of_hosts() {
    for hosts in [1, 100, 101, 10_000] {
        let mut site = Site::start(&["public", "admin", "other"]).await;
        let gateway = site.gateway(&manifest(hosts)).await;
        let last = format!("H{}.EXAMPLE.com.:80", hosts - 1);
        for (host, expected) in [
            ("admin.example.com", "admin /"),
            ("ADMIN.Example.COM", "admin /"),
            ("aDMIN.eXAMPLE.cOM", "admin /"),
            ("admin.example.com.", "admin /"),
            ("ADMIN.EXAMPLE.COM.", "admin /"),
            ("admin.example.com:443", "admin /"),
            ("admin.example.com:1", "admin /"),
            ("Admin.Example.com.:65535", "admin /"),
            ("xadmin.example.com", "public /"),
            ("x.admin.example.com", "public /"),
            ("admin.example.com.evil.example", "public /"),
            ("admin.example.co", "public /"),
            ("example.com", "public /"),
            ("", "public /"),
            (&last, if hosts > 1 { "other /" } else { "public /" }),
            ("admin.example.com..", "400 bad_target"),
            (".admin.example.com", "400 bad_target"),
            ("admin..example.com", "400 bad_target"),
            ("admin.example.com:", "400 bad_target"),
            ("admin.example.com:x", "400 bad_target"),
            ("admin.example.com:0", "400 bad_target"),
            ("admin.example.com:65536", "400 bad_target"),
            ("admin.example.com:80:80", "400 bad_target"),
            ("admin.example.com@public", "400 bad_target"),
            ("public@admin.example.com", "400 bad_target"),
            ("admin.example.com/x", "400 bad_target"),
            ("http://admin.example.com", "400 bad_target"),
            ("admin%2eexample%2ecom", "400 bad_target"),
            ("admin.example.com%00", "400 bad_target"),
            ("admin.example.com, public", "400 bad_target"),
            ("admin.example.com public", "400 bad_target"),
            ("admin.example.com\tpublic", "400 bad_target"),
            ("admin\u{3002}example.com", "400 bad_target"),
            ("\u{ff21}dmin.example.com", "400 bad_target"),
            ("*.example.com", "400 bad_target"),
        ] {
            let outcome = site.outcome(gateway.proxy_addr(), format!("GET / HTTP/1.1\r\nhost: {host}")).await;
            assert_eq!(outcome, expected, "{host:?} of {hosts} hosts");
        }
        gateway.shutdown().await;
    }
}

/// The same for the authority of an absolute target, and nobody hears of a Host field that contradicts it.
#[tokio::test]
async fn the_host_of_an_absolute_target_is_read_like_any_other() {
    let mut site = Site::start(&["public", "admin", "other"]).await;
    let gateway = site.gateway(&manifest(2)).await;
    for (head, expected) in [
        ("GET http://admin.example.com/ HTTP/1.1\r\nhost: admin.example.com", "admin /"),
        ("GET http://ADMIN.example.com./ HTTP/1.1\r\nhost: admin.example.COM", "admin /"),
        ("GET HTTP://Admin.Example.Com:80/ HTTP/1.1\r\nhost: admin.example.com.:80", "admin /"),
        ("GET http://admin.example.com HTTP/1.0", "admin /"),
        ("GET http://admin.example.com/ HTTP/1.1\r\nhost: public.example.com", "400 bad_target"),
        ("GET http://public.example.com/ HTTP/1.1\r\nhost: admin.example.com", "400 bad_target"),
        ("GET http://public.example.com/ HTTP/1.0\r\nhost: admin.example.com", "400 bad_target"),
        ("GET http://admin.example.com:80/ HTTP/1.1\r\nhost: admin.example.com:81", "400 bad_target"),
        ("GET http://admin.example.com/ HTTP/1.1\r\nhost:", "400 bad_target"),
        ("GET http://admin.example.com/ HTTP/1.1", "400 bad_host"),
        ("GET / HTTP/1.1\r\nhost: public.example.com\r\nhost: admin.example.com", "400 bad_host"),
        ("GET / HTTP/1.1\r\nHost: admin.example.com\r\nHOST: admin.example.com", "400 bad_host"),
        ("GET / HTTP/1.0\r\nhost: a\r\nhost: a", "400 bad_host"),
        ("GET / HTTP/1.1\r\nhost : admin.example.com", "400 bad_request"),
        ("GET / HTTP/1.1\r\nhost: public\r\n\tadmin.example.com", "400 bad_request"),
        ("GET / HTTP/1.1\r\nhost: public\r\n .example.com", "400 bad_request"),
        ("GET / HTTP/1.0", "public /"),
    ] {
        assert_eq!(site.outcome(gateway.proxy_addr(), head).await, expected, "{head}");
    }
    gateway.shutdown().await;
}

/// What a host's route allows holds for each request of a connection anew.
#[tokio::test]
async fn each_request_of_a_connection_goes_by_its_own_host() {
    let mut site = Site::start(&["public", "admin", "other"]).await;
    let gateway = site.gateway(&manifest(2)).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for (host, expected) in [
        ("public.example.com", "public"),
        ("admin.example.com", "admin"),
        ("ADMIN.example.com.", "admin"),
        ("public.example.com", "public"),
        ("h1.example.com", "other"),
        ("", "public"),
        ("admin.example.com", "admin"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response(false).await.text(), expected, "{host:?}");
        let news = site.news();
        assert_eq!(news.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [expected], "{host:?}");
        let told = news[0].1.header("host").expect("a host");
        assert!(host.is_empty() || told == host.to_ascii_lowercase().trim_end_matches('.'), "{host:?}: {told}");
    }
    gateway.shutdown().await;
}

/// A wildcard is for whole labels below its name, in every spelling.
#[tokio::test]
async fn a_wildcard_host_has_an_edge() {
    let mut site = Site::start(&["public", "wild", "deep", "exact"]).await;
    let routes = "
routes:
- {name: public, path: /, backend: public}
- {name: wild, host: '*.example.com', path: /, backend: wild}
- {name: deep, host: '*.eu.example.com', path: /, backend: deep}
- {name: exact, host: a.eu.example.com, path: /, backend: exact}
";
    let gateway = site.gateway(routes).await;
    for (host, expected) in [
        ("a.example.com", "wild /"),
        ("A.EXAMPLE.COM.:8443", "wild /"),
        ("b.c.example.com", "wild /"),
        ("eu.example.com", "wild /"),
        ("b.EU.example.com", "deep /"),
        ("A.eu.example.com.", "exact /"),
        ("a.eu.example.com:1", "exact /"),
        ("x.a.eu.example.com", "deep /"),
        ("example.com", "public /"),
        ("xexample.com", "public /"),
        ("a-example.com", "public /"),
        ("a.example.com.evil", "public /"),
        ("a.example.comx", "public /"),
        ("[::1]", "public /"),
        ("127.0.0.1", "public /"),
        (".example.com", "400 bad_target"),
        ("a..example.com", "400 bad_target"),
        ("a/.example.com", "400 bad_target"),
        ("a%00.example.com", "400 bad_target"),
    ] {
        let outcome = site.outcome(gateway.proxy_addr(), format!("GET / HTTP/1.1\r\nhost: {host}")).await;
        assert_eq!(outcome, expected, "{host:?}");
    }
    gateway.shutdown().await;
}
