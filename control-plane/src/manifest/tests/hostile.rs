//! Input made to hurt: each is a fault, and the work for it is bounded. Bounds are asserted by counting what was
//! done or by what was said, and by a stack that is small; a generous limit on time only catches what is
//! quadratic.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Runs on the smallest stack that a thread gets by default, and gives the codes of the faults.
fn codes(text: String) -> Vec<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let faults = parse(documents(&[&text])).faults;
        let codes = faults.into_iter().map(|fault| fault.code).collect();
        sender.send(codes).unwrap();
    });
    let codes = receiver.recv_timeout(Duration::from_secs(60)).expect("should be quick and not overflow");
    thread.unwrap().join().unwrap();
    codes
}

#[test]
fn each_hostile_input_is_a_clear_fault() {
    let mut bomb = String::from(
        "plugins:\n- {name: a0, type: x, config: {a: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]}}\n",
    );
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("- {{name: a{level}, type: x, config: {{a: &a{level} [{aliases}]}}}}\n");
    }
    let mut chain = String::from("plugins:\n- {name: a0, type: x, config: {a: &a0 [x]}}\n");
    for level in 1..200 {
        chain += &format!("- {{name: a{level}, type: x, config: {{a: &a{level} [*a{}]}}}}\n", level - 1);
    }
    let config = |value: &str| format!("plugins:\n- name: a\n  type: x\n  config: {{a: {value}}}\n");
    let cases: Vec<(&str, String, &str)> = vec![
        ("aliases of aliases", bomb, "RG0108"),
        ("chain of aliases", chain, "RG0108"),
        ("alias of itself", config("&a [*a]"), "RG0109"),
        ("nested lists", format!("routes: {}", "[".repeat(100_000)), "RG0108"),
        ("nested lists at the top", "[".repeat(100_000), "RG0108"),
        ("nested lists in an unknown section", format!("rutes: {}", "- ".repeat(100_000)), "RG0101"),
        ("nested lists in an unknown section, over lines", format!("rutes:\n{}", "- ".repeat(100_000)), "RG0108"),
        ("nested mappings", config(&"{a: ".repeat(100_000)), "RG0108"),
        ("nested block lists", format!("routes:\n{}", "- ".repeat(100_000)), "RG0108"),
        ("nested keys", format!("routes:\n{}", "? ".repeat(100_000)), "RG0108"),
        ("one level too deep", config(&format!("{}{}", "[".repeat(61), "]".repeat(61))), "RG0108"),
        ("50 MB scalar", config(&"x".repeat(50_000_000)), "RG0108"),
        ("8 MB name", format!("routes:\n- backend: {}\n", "x".repeat(8_000_000)), "RG0107"),
        ("8 MB key", format!("routes:\n- ? {}\n  : x\n", "x".repeat(8_000_000)), "RG0102"),
        ("a list of millions", config(&format!("[{}]", "1,".repeat(2_000_000))), "RG0108"),
        ("millions of anchors", format!("routes:\n{}", "- &a b\n".repeat(200_000)), "RG0103"),
        ("many anchors on many values", config(&format!("[{}]", "&a b,".repeat(300_000))), "RG0108"),
        ("lines without end", format!("routes: \"{}", "\n".repeat(2_000_000)), "RG0101"),
        ("documents without end", "---\n".repeat(200_000), "RG0108"),
        ("a binary", config("!!binary aGk="), "RG0109"),
        ("a tag of someone's", config("!ruby/object:Gem {}"), "RG0109"),
        ("a merge key", config("{<<: {b: c}}"), "RG0109"),
        ("a key twice", config("{b: 1, b: 2}"), "RG0105"),
        (
            "a key in many twice",
            config(&format!("{{{}k7: 1}}", (0..50).map(|n| format!("k{n}: 1, ")).collect::<String>())),
            "RG0105",
        ),
        ("octal where a string belongs", "routes:\n- {backend: b, query: {a: 0o17}}\n".into(), "RG0103"),
        ("a number beyond JSON", config(&"9".repeat(10_000)), "RG0107"),
        ("infinity", config(".inf"), "RG0107"),
        ("a tab", "routes:\n\t- a\n".into(), "RG0101"),
        (
            "unknown keys without end",
            format!("routes:\n- {{{}}}\n", (0..60_000).map(|n| format!("bakend{n}: [], ")).collect::<String>()),
            "RG0102",
        ),
        ("a NUL", "routes: []\n\0: {".into(), "RG0101"),
        ("a carriage return alone", "routes: 1\r".into(), "RG0103"),
    ];
    for (what, text, code) in cases {
        let size = text.len();
        let codes = codes(text);
        assert!(codes.iter().any(|one| one == code), "{what} ({size} bytes): {codes:?}");
        assert!(codes.len() <= FAULTS_MAX + 1, "{what}");
    }
}

#[test]
fn deepest_allowed_nesting_survives_a_small_stack() {
    let text = format!("plugins:\n- {{name: a, type: x, config: {{a: {}{}}}}}\n", "[".repeat(60), "]".repeat(60));
    assert_eq!(codes(text.clone()), Vec::<String>::new());
    let resources = parsed(&text).resources;
    assert_eq!(parsed(&to_yaml(&resources)).resources, resources);
}

#[test]
fn bounds_leave_room_for_large_files() {
    let text: String = (0..20_000).map(|n| format!("- {{name: r{n}, path: /a/{n}, backend: b}}\n")).collect();
    assert_eq!(parsed(&format!("routes:\n{text}")).resources.len(), 20_000);
}

/// Pieces that YAML is made of, so that random text gets past the first character.
fn yamlish() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "routes:",
        "backends:",
        "plugins:",
        "name: a",
        "path: /a",
        "backend: b",
        "hosts: ",
        "matches:",
        "config: ",
        "\n",
        "\n  ",
        "\n    ",
        "\n- ",
        "\n  - ",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "\"",
        "'",
        "#",
        " ",
        "\t",
        "|",
        ">",
        "&a ",
        "*a",
        "!!str ",
        "!x ",
        "? ",
        "<<: ",
        "---",
        "...",
        "%",
        "\r\n",
        "\r",
        "\u{feff}",
        "\u{2028}",
        "é",
        "1",
        "0o7",
        "~",
        "timeout: 5s",
        "1e999",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), yaml in yamlish(), cut in any::<prop::sample::Index>()) {
        let mut damaged: Vec<char> = EXAMPLE.chars().collect();
        let at = cut.index(damaged.len());
        damaged.splice(at..at, yaml.chars().take(5));
        let damaged: String = damaged.into_iter().collect();
        for text in [text, yaml.clone(), format!("routes:\n- {yaml}"), format!("routes: [{{{yaml}}}]"), damaged] {
            let Parsed { resources, faults, .. } = parse(documents(&[&text]));
            let yaml = to_yaml(&resources);
            prop_assert_eq!(to_yaml(&parsed(&yaml).resources), yaml);
            let rendered = render(&faults, false);
            prop_assert!(faults.iter().all(|fault| !fault.code.is_empty() && fault.location.is_some()));
            prop_assert!(rendered.chars().all(|one| one == '\n' || !one.is_control()), "{:?}", rendered);
        }
    }
}
