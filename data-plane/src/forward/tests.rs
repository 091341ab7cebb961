use super::*;

fn fields(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in lines {
        fields.append(name, value.as_bytes());
    }
    fields
}

fn request(text: &str) -> RequestHead {
    let mut head = RequestHead::default();
    assert!(head.parse(text.as_bytes()).expect("parses").is_some());
    head
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.iter().map(|(name, _)| name).collect()
}

#[test]
fn hop_by_hop_and_nominated_fields_end_here() {
    let mut head = request(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop, Authorization, Content-Type\r\nX-Hop: 1\r\n\
         Keep-Alive: 5\r\nTE: gzip\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\
         Authorization: b\r\nContent-Type: t\r\nAccept: c\r\n\r\n",
    );
    admit_request(&mut head.fields, &head.connection, false);
    sanitise_request(&mut head.fields);
    assert_eq!(names(&head.fields), ["Authorization", "Content-Type", "Accept"]);
}

#[test]
fn identities_of_the_gateway_cannot_be_forged_by_any_spelling() {
    let mut head = request(
        "GET / HTTP/1.1\r\nHost: a\r\nX-RustyGate-Backend: x\r\nx_rustygate_route: x\r\nX-Forwarded-Prefix: x\r\n\
         X_Forwarded_For: 1\r\nx-forwarded-FOR: 2\r\nForwarded: for=1\r\nX-Real-IP: 3\r\nX_Real_IP: 3\r\nX-Mine: 1\r\n\r\n",
    );
    admit_request(&mut head.fields, &head.connection, false);
    sanitise_request(&mut head.fields);
    assert_eq!(names(&head.fields), ["X-Mine"]);
}

#[test]
fn nothing_is_decided_by_what_a_stranger_may_not_say_or_the_upstream_will_not_see() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Role\r\nX-Role: admin\r\nX-RustyGate-Route: x\r\n\
                X-Forwarded-Proto: https\r\nForwarded: for=1\r\nX.Real.IP: 3\r\nProxy: x\r\nUpgrade: h2c\r\n\r\n";
    let admitted = |trusted| {
        let mut head = request(text);
        admit_request(&mut head.fields, &head.connection, trusted);
        names(&head.fields).join(" ")
    };
    assert_eq!(admitted(false), "Host Connection Upgrade");
    assert_eq!(admitted(true), "Host Connection X-Forwarded-Proto Forwarded X.Real.IP Upgrade");
}

#[test]
fn only_a_trusted_peer_is_believed() {
    let told = fields(&[("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.0.0.7"), ("X-Forwarded-Proto", "https")]);
    let trusted = TrustedProxies::new(vec![TrustedProxies::parse_one("10.0.0.0/8").expect("parses")]);
    let mut forwarded = Forwarded::default();
    forwarded.read(&told, "192.0.2.1".parse().expect("an address"), &trusted);
    assert_eq!(forwarded.client, "192.0.2.1".parse().ok());
    assert!(forwarded.chain.is_empty() && forwarded.proto.is_none());
    forwarded.read(&told, "10.0.0.1".parse().expect("an address"), &trusted);
    assert_eq!(forwarded.client, "203.0.113.9".parse().ok());
    assert_eq!(forwarded.proto, Some("https"));
}

#[test]
fn the_client_is_found_in_every_spelling_of_its_address() {
    let trusted = TrustedProxies::new(vec![TrustedProxies::parse_one("10.0.0.0/8").expect("parses")]);
    let client = |name: &str, value: &str| {
        let mut forwarded = Forwarded::default();
        forwarded.read(&fields(&[(name, value)]), "10.0.0.1".parse().expect("an address"), &trusted);
        forwarded.client.expect("is known").to_string()
    };
    for (name, value, expected) in [
        ("X-Forwarded-For", "203.0.113.9:4711", "203.0.113.9"),
        ("X-Forwarded-For", "203.0.113.9:4711, 10.2.2.2:80", "203.0.113.9"),
        ("X-Forwarded-For", "2001:db8::1", "2001:db8::1"),
        ("X-Forwarded-For", "[2001:db8::1]:443", "2001:db8::1"),
        ("X-Forwarded-For", "::ffff:203.0.113.9", "203.0.113.9"),
        ("X-Forwarded-For", "6.6.6.6, unknown", "10.0.0.1"),
        ("Forwarded", "for=203.0.113.9;proto=https", "203.0.113.9"),
        ("Forwarded", "proto=http; For=\"203.0.113.9:4711\", for=10.3.3.3", "203.0.113.9"),
        ("Forwarded", "for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        // An element that does not end cannot hide the one that the proxy adds.
        ("Forwarded", "for=\"6.6.6.6, for=203.0.113.9", "203.0.113.9"),
        ("Forwarded", "for=_hidden", "10.0.0.1"),
        ("Forwarded", "proto=https", "10.0.0.1"),
    ] {
        assert_eq!(client(name, value), expected, "{name}: {value}");
    }
}

#[test]
fn a_long_chain_is_cut_to_its_nearest_entries() {
    let chain = (0..1000).map(|i| format!("192.0.2.{}", i % 250)).collect::<Vec<_>>().join(", ");
    let told = fields(&[("X-Forwarded-For", &chain)]);
    let trusted = TrustedProxies::new(vec![TrustedProxies::parse_one("::1").expect("parses")]);
    let mut forwarded = Forwarded::default();
    forwarded.read(&told, "::1".parse().expect("an address"), &trusted);
    assert_eq!(forwarded.chain.split(|&byte| byte == b',').count(), FORWARDED_FOR_MAX);
    assert!(forwarded.chain.ends_with(b"192.0.2.249"));
}

#[test]
fn cidr_blocks_hold_what_they_should() {
    let block = |text: &str| TrustedProxies::new(vec![TrustedProxies::parse_one(text).expect(text)]);
    let holds = |text: &str, address: &str| block(text).contains(address.parse().expect(address));
    assert!(holds("0.0.0.0/0", "255.1.2.3"));
    assert!(holds("10.1.0.0/16", "10.1.255.255") && !holds("10.1.0.0/16", "10.2.0.0"));
    assert!(holds("127.0.0.1", "::ffff:127.0.0.1"));
    assert!(holds("::ffff:10.0.0.0/104", "10.9.9.9") && !holds("::ffff:10.0.0.0/104", "11.0.0.1"));
    assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
    for bad in ["10.0.0.0/33", "x", "10.0.0.1/", "1/2/3"] {
        assert!(TrustedProxies::parse_one(bad).is_err() || bad == "10.0.0.1/", "{bad}");
    }
}
