//! Private runs give the bytes of plain ones: all texts of the quality set, any number of servers, any layout of shards.

use crate::runs::{User, spread};
use ostrakon_node::progress::unwatched;
use ostrakon_node::{Model, RunOptions};
use ostrakon_protocol::Digest;
use ostrakon_tests::packed::{self, binary, minilm};
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::{Tiny, expect};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const GOLDEN: &str = include_str!("../../data/golden-quality.txt");
/// Operators, with a node each.
const NODES: usize = 5;

fn quality() -> Vec<String> {
    let json: Value = serde_json::from_str(include_str!("../../data/quality.json")).unwrap();
    json["sentences"].as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap().to_owned()).collect()
}

/// All nodes have the package of one shard. Of the others each has some shards, so that each shard has two operators.
fn parts() -> Vec<Part> {
    let part = |at: usize| {
        let mut packages = vec![(minilm(1), Vec::new())];
        for count in [2, 3, 6] {
            let shards = (0..count).filter(|shard| [2 * shard % NODES, (2 * shard + 1) % NODES].contains(&at));
            let shards: Vec<String> = shards.map(|shard| format!("shard-{shard}")).collect();
            if !shards.is_empty() {
                packages.push((minilm(count), shards));
            }
        }
        let roles = if at == 0 { vec!["execution", "scheduling"] } else { vec!["execution"] };
        Part { operator: format!("operator-{at}"), roles, packages, ..Part::default() }
    };
    (0..NODES).map(part).collect()
}

/// What a plain run gives: the digest of each text, and of all.
fn plain(model: &mut Model, texts: &[String]) -> (Vec<Digest>, Digest) {
    let answer = expect(model.run(texts, None, &unwatched));
    (answer.outputs.iter().map(|output| output.digest).collect(), answer.digest)
}

#[test]
fn private_digests_are_plain_ones() {
    let began = Instant::now();
    let texts = quality();
    let swarm = Swarm::start(&binary(), &parts(), false);
    let options = RunOptions { plugins: Some(packed::plugins()), ..RunOptions::default() };
    let user = User::new(swarm.schedulers(), packed::home(), options.clone());
    user.until_served(NODES);
    println!("{NODES} nodes after {:.1} s", began.elapsed().as_secs_f64());
    let (each, all) = plain(&mut packed::load(&minilm(1), &options), &texts);
    assert_eq!(all.to_string(), GOLDEN.trim(), "the plain digest is the one that is committed");

    // Every text, two servers; batches of one text, of some, of all.
    let (mut model, _) = expect(user.open(&minilm(1), 2));
    for most in [Some(1), Some(7), None] {
        let start = Instant::now();
        if most.is_none() {
            expect(model.prepare(expect(model.rows(&texts))));
        }
        let private = expect(model.run(&texts, most, &unwatched));
        let digests: Vec<Digest> = private.answer.outputs.iter().map(|output| output.digest).collect();
        assert_eq!(digests, each, "batches of {most:?}");
        assert_eq!(private.answer.digest, all);
        assert!(private.replaced.is_empty(), "{:?}", private.replaced);
        println!("k = 2, {} texts, batches of {most:?}: {:.1} s", texts.len(), start.elapsed().as_secs_f64());
    }

    // More rows than are kept ready, asked for at once and again.
    let many: Vec<String> = texts.iter().cycle().take(2 * texts.len()).cloned().collect();
    let rows = expect(model.rows(&many));
    let start = Instant::now();
    let mut ready = 0;
    for _ in 0..2 {
        expect(model.prepare(rows));
        ready = model.ready();
        assert!((1..rows).contains(&ready), "{ready} rows of {rows} are ready: no pool is exceeded");
    }
    let private = expect(model.run(&many, None, &unwatched));
    for (at, output) in private.answer.outputs.iter().enumerate() {
        assert_eq!(output.digest, each[at % texts.len()], "text {at} of many");
    }
    println!("k = 2, {rows} rows, {ready} of them ready before: {:.1} s", start.elapsed().as_secs_f64());
    model.close();

    // More servers.
    for servers in [3, 5] {
        let start = Instant::now();
        let (mut model, _) = expect(user.open(&minilm(1), servers));
        assert!(model.legs().iter().all(|leg| leg.servers.len() == servers as usize));
        check_some(&mut model, &texts[..12], &each);
        println!("k = {servers}, 12 texts: {:.1} s", start.elapsed().as_secs_f64());
        model.close();
    }

    // Servers that have only some shards.
    for count in [2, 3, 6] {
        let start = Instant::now();
        let (mut model, _) = expect(user.open(&minilm(count), 2));
        let legs = model.legs();
        check_some(&mut model, &texts[..12], &each);
        let servers: BTreeSet<_> = legs.iter().flat_map(|leg| &leg.servers).collect();
        assert!(legs.len() > 1 && servers.len() > 2, "{legs:?}");
        println!(
            "{count} shards, 12 texts: {} legs on {} servers, {:.1} s",
            legs.len(),
            servers.len(),
            start.elapsed().as_secs_f64()
        );
        model.close();
    }
    let (taken, sent) = user.masks.used_once();
    assert_eq!(taken, sent, "all rows that were taken were sent");
    println!("{taken} rows of masks, each used once");

    let start = Instant::now();
    let lines: Vec<&String> =
        texts.iter().filter(|text| !text.contains('\n') && text.trim() == *text).take(8).collect();
    command_line(&swarm.schedulers()[0], &lines, &texts, &each);
    println!("command line: {:.1} s; in all {:.1} s", start.elapsed().as_secs_f64(), began.elapsed().as_secs_f64());
}

fn check_some(model: &mut ostrakon_node::private::PrivateModel, texts: &[String], each: &[Digest]) {
    let mut times = Vec::new();
    for most in [Some(5), None] {
        let private = expect(model.run(texts, most, &unwatched));
        times.push(private.online);
        let digests: Vec<Digest> = private.answer.outputs.iter().map(|output| output.digest).collect();
        assert_eq!(digests, each[..texts.len()], "batches of {most:?}");
        assert!(private.replaced.is_empty(), "{:?}", private.replaced);
    }
    println!("  online: {}", spread(times));
}

fn ostrakon(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(binary());
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/home");
    command.env("OSTRAKON_HOME", home).env("OSTRAKON_PLUGINS", packed::plugins()).arg("run");
    let output = expect(command.args(arguments).output());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn command_line(address: &str, lines: &[&String], texts: &[String], each: &[Digest]) {
    let directory = expect(tempfile::tempdir());
    let file = directory.path().join("texts");
    let text: Vec<&str> = lines.iter().map(|line| line.as_str()).collect();
    expect(std::fs::write(&file, text.join("\n")));
    let (package, file) = (minilm(1).display().to_string(), file.display().to_string());
    let (done, out, said) = ostrakon(&[
        &package,
        "--allow-unknown-signer",
        "--private",
        "--servers",
        "3",
        "--swarm",
        address,
        "--input",
        &file,
        "--json",
    ]);
    assert!(done, "{said}");
    let json: Value = expect(serde_json::from_str(&out));
    let outputs = json["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), lines.len());
    for (output, line) in outputs.iter().zip(lines) {
        let at = texts.iter().position(|text| text == *line).unwrap();
        assert_eq!(output["digest"].as_str().unwrap(), each[at].to_string(), "{line:?}");
    }
    let servers = json["servers"].as_array().unwrap();
    assert!(servers.iter().all(|leg| leg["servers"].as_array().unwrap().len() == 3), "{json}");
    assert!(
        json["replaced"].as_array().unwrap().is_empty() && json["traffic"]["round_trips"].as_u64() > Some(0),
        "{json}"
    );
}

#[test]
fn what_cannot_be_run_privately_is_said_clearly() {
    let tiny = Tiny::new();
    let (served, other) = (tiny.honest(1), tiny.honest(2));
    let part = |at: usize| Part {
        operator: format!("operator-{}", at / 2),
        roles: if at == 0 { vec!["execution", "scheduling"] } else { vec!["execution"] },
        packages: vec![(served.clone(), Vec::new())],
        ..Part::default()
    };
    // Four nodes of two operators.
    let swarm = Swarm::start(&binary(), &(0..4).map(part).collect::<Vec<_>>(), false);
    let address = swarm.schedulers()[0].clone();
    User::new(vec![address.clone()], tiny.home(), RunOptions::default()).until_served(4);
    let run = |package: &Path, more: &[&str]| {
        let package = package.display().to_string();
        let mut arguments = vec![package.as_str(), "--allow-unknown-signer", "--text", "w1 w2", "--private"];
        arguments.extend(more);
        let (done, out, said) = ostrakon(&arguments);
        assert!(!done && out.is_empty(), "{more:?}: {out}");
        println!("{more:?}:\n{said}");
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let nobody = "/ip4/127.0.0.1/tcp/1";
    let receipt = tiny.path().join("receipt").display().to_string();
    let here = ["--swarm", address.as_str()];
    for (package, more, words) in [
        (&served, vec!["--servers", "3", here[0], here[1]], vec!["2 operators", "3 different ones"]),
        (&other, vec![here[0], here[1]], vec!["no node that is free", "serves blocks 0 to 4"]),
        (&served, vec!["--swarm", nobody], vec!["no node of the swarm can be reached", nobody]),
        (&served, vec!["--swarm", "nonsense"], vec!["nonsense"]),
        (&served, vec!["--servers", "1", here[0], here[1]], vec!["--servers", "1 is not in 2..=16"]),
        (&served, vec!["--servers", "17", here[0], here[1]], vec!["--servers", "17 is not in 2..=16"]),
        (&PathBuf::from("not-here"), vec![here[0], here[1]], vec!["not-here", "ostrakon fetch"]),
        (&served, vec!["--receipt", &receipt, here[0], here[1]], vec!["--private", "cannot be used with", "--receipt"]),
        (&served, vec!["--within", "9", here[0], here[1]], vec!["--private", "cannot be used with", "--within"]),
        (&served, vec!["--backend", "cpu", here[0], here[1]], vec!["--private", "cannot be used with", "--backend"]),
        (&served, vec![], vec!["--swarm"]),
    ] {
        let said = run(package, &more);
        assert!(words.iter().all(|word| said.contains(word)), "{more:?} {words:?}: {said}");
    }
    assert!(!Path::new(&receipt).exists());
}
