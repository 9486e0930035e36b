use super::*;

const LEAST: &str = "operator = \"alice\"\nroles = [\"scheduling\"]\n";

fn refused(text: &str) -> String {
    Settings::parse(text, Path::new("/etc")).unwrap_err()
}

/// The least file with one more line.
fn with(line: &str) -> String {
    refused(&format!("{LEAST}{line}\n"))
}

#[test]
fn the_example_says_what_holds_without_it() {
    let text = include_str!("../../../../../examples/node.toml");
    let example = Settings::parse(text, Path::new("/etc")).unwrap();
    assert_eq!(example.limits, Limits::default());
    assert!(example.roles.execution && example.packages.len() == 1 && example.http.is_some());
    // Every key that the example only mentions is one that exists, with a value that is taken.
    let mentioned = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase()))
        })
    };
    let mentions: Vec<&str> = text.lines().filter(|line| mentioned(line)).map(|line| &line[2..]).collect();
    assert!(mentions.len() >= 6, "{mentions:?}");
    for line in mentions {
        Settings::parse(&format!("{line}\n{text}"), Path::new("/etc"))
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_is_left_out_has_a_value() {
    let settings = Settings::parse(LEAST, Path::new("/etc")).unwrap();
    assert!(settings.roles.scheduling && !settings.roles.execution);
    assert_eq!((settings.http, settings.threads, settings.mdns), (None, None, false));
    assert_eq!(settings.listen, ["/ip4/127.0.0.1/tcp/0"]);
}

#[test]
fn packages_say_which_blocks() {
    let text = format!(
        "{LEAST}packages = [{{ package = \"minilm\" }}, {{ package = \"./m\", blocks = \"0-3\" }}, \
         {{ package = \"minilm\", blocks = \"5\" }}, {{ package = \"m\", shards = [\"shard0\"] }}]"
    );
    let packages = Settings::parse(&text, Path::new("/etc")).unwrap().packages;
    let parts: Vec<&Blocks> = packages.iter().map(|p| &p.blocks).collect();
    assert_eq!(
        parts,
        [&Blocks::All, &Blocks::Range(0..4), &Blocks::Range(5..6), &Blocks::Shards(vec!["shard0".into()])]
    );
    assert_eq!(packages[1].package, Path::new("/etc/./m"));
}

#[test]
fn what_makes_no_sense_is_named_with_what_would_do() {
    let all: [(&str, &[&str]); 24] = [
        ("opertor = 1", &["unknown field `opertor`", "line 3"]),
        ("listen = []", &["`listen` is empty", "/ip4/127.0.0.1/tcp/0"]),
        ("listen = [\"127.0.0.1:4001\"]", &["`listen`", "127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001"]),
        ("listen = [\"/ip4/1.2.3.4/tcp/1\", \"/ip4/1.2.3.4/tcp/1\"]", &["`listen`", "twice"]),
        ("bootstrap = [\"/a\\u001b[2J\"]", &["`bootstrap`", "\\u{1b}"]),
        ("http = \"9464\"", &["`http`", "127.0.0.1:9464"]),
        ("backend = \"tpu\"", &["`backend` is \"tpu\"", "auto, cpu, openvino, cuda, or cuda:N"]),
        ("threads = 0", &["`threads` is 0", "1 to 1024"]),
        ("threads = -1", &["`threads` is -1"]),
        ("allow = [\"ed25519:xyz\"]", &["`allow`", "ed25519:xyz", "64 hexadecimal"]),
        ("packages = [{ package = \"\" }]", &["`packages`", "\"\""]),
        ("packages = [{ package = \"Mini LM\" }]", &["`packages`", "Mini LM"]),
        ("packages = [{ package = \"m\", blocks = \"3-1\" }]", &["blocks \"3-1\"", "\"0-3\" are the first four"]),
        ("packages = [{ package = \"m\", blocks = \"0-99999999999\" }]", &["blocks", "4096"]),
        ("packages = [{ package = \"m\", blocks = \"+1\" }]", &["blocks \"+1\""]),
        ("packages = [{ package = \"m\", shards = [] }]", &["0 shards"]),
        ("packages = [{ package = \"m\", shards = [\"a\"], blocks = \"1\" }]", &["shards and blocks", "one of them"]),
        ("packages = [{ packge = \"m\" }]", &["unknown field `packge`"]),
        ("packages = [\"m\"]", &["expected a table, as { package = \"minilm\" }"]),
        ("limits = 3", &["expected a table"]),
        ("[limits]\nsessions = 0", &["`limits.sessions` is 0", "1 to 4096"]),
        ("[limits]\nmemory_mib = 9223372036854775807", &["`limits.memory_mib`", "16 to"]),
        ("[limits]\nsesions = 1", &["unknown field `sesions`"]),
        ("[trust]\nallow_everything = true", &["unknown field `allow_everything`"]),
    ];
    for (line, expected) in all {
        let error = with(line);
        for part in expected {
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(!error.contains('\n') && !error.contains('\u{1b}'), "{line}: {error}");
        assert!(!error.contains("struct"), "{line}: {error}");
    }
}

#[test]
fn the_head_of_the_file_is_needed() {
    assert!(refused("roles = [\"scheduling\"]").contains("missing field `operator`"));
    assert!(refused("operator = \"a\"").contains("missing field `roles`"));
    assert!(refused("operator = \"a\"\nroles = []").contains("`roles` is empty"));
    assert!(refused("operator = \"a\"\nroles = [\"king\"]").contains("\"king\""));
    assert!(refused("operator = \"a\"\nroles = [\"execution\"]").contains("`packages` is empty"));
    assert!(refused("operator = \"a\\u001b\"\nroles = [\"scheduling\"]").contains("`operator`"));
    assert!(refused(&format!("operator = \"{}\"\nroles = [\"scheduling\"]", "a".repeat(65))).contains("`operator`"));
}

#[test]
fn a_key_is_let_in_or_not() {
    let key = SigningKey::from_seed(&[1; 32]).public();
    assert!(with(&format!("allow = [\"{key}\"]\ndeny = [\"{key}\"]")).contains("both"));
}

#[test]
fn only_some_settings_need_a_restart() {
    let parse = |more: &str| Settings::parse(&format!("{LEAST}{more}"), Path::new("/etc")).unwrap();
    let old = parse("");
    assert_eq!(old.needs_restart(&parse("[limits]\ndrain_seconds = 1")), Vec::<&str>::new());
    assert_eq!(old.needs_restart(&parse("listen = [\"/ip4/127.0.0.1/tcp/9\"]\nthreads = 3")), ["listen", "threads"]);
    assert_eq!(old.needs_restart(&parse("[limits]\nsessions = 3")), ["limits"]);
}

#[test]
fn a_file_is_bounded_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    let read = || Settings::read(&path).unwrap_err().to_string();
    assert!(read().contains("node.toml: cannot be read"));
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(read().contains("1048577 bytes"));
    std::fs::write(&path, b"\xff").unwrap();
    assert!(read().contains("cannot be read"));
}
