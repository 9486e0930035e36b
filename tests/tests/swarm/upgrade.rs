//! Components are replaced while a hundred jobs run: no job fails, the bytes stay, and every receipt and every plan names
//! a version that gives the same again.

use ostrakon_node::audit::{AuditOptions, Auditing, Choice, Given, Method};
use ostrakon_node::progress::unwatched;
use ostrakon_node::swarm::client::{SwarmAnswer, SwarmClient, SwarmRequest};
use ostrakon_node::swarm::plan_audit::{PlanVerdict, audit_plan};
use ostrakon_node::swarm::schedule::Scheduler;
use ostrakon_node::{Digest, Request, Verdict};
use ostrakon_protocol::Verify;
use ostrakon_tests::packed;
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::{Random, Tiny, block_bert, expect, key, model, policy, quick};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const JOBS: usize = 100;

/// The same component under another digest: with a section that nobody reads.
fn another(component: &[u8]) -> Vec<u8> {
    let section = b"\x00\x08\x07version";
    [component, section.as_slice()].concat()
}

fn copy_plugins(to: &Path) {
    expect(fs::create_dir_all(to));
    for name in ["scheduler.wasm", "verifier.wasm"] {
        expect(fs::copy(packed::plugins().join(name), to.join(name)));
    }
}

#[test]
fn a_hundred_jobs_while_components_are_replaced() {
    let tiny = Tiny::new();
    let old = tiny.honest(3);
    let new = expect(tiny.package("replaced", &model(), &another(&block_bert()), 3));
    let digests = [&old, &new].map(|package| tiny.load(package, &quick()).digest());
    assert_ne!(digests[0], digests[1]);
    let texts = Random(3).texts(3);
    let expected = expect(tiny.load(&old, &quick()).run(&texts, None, &unwatched)).digest;

    let plugins = tiny.path().join("plugins");
    copy_plugins(&plugins);
    let part = |at: usize| Part {
        operator: format!("operator-{at}"),
        roles: vec!["execution", ["scheduling", "verification", "execution", "execution"][at]],
        packages: vec![(old.clone(), vec![])],
        plugins: Some(plugins.clone()),
        ..Part::default()
    };
    let parts: Vec<Part> = (0..4).map(|at| Part { roles: dedup(part(at).roles), ..part(at) }).collect();
    let mut swarm = Swarm::start(&packed::binary(), &parts, false);
    let addresses = swarm.schedulers();
    let begun = AtomicUsize::new(0);
    let answers: Vec<SwarmAnswer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|client| {
                scope.spawn({
                    let (addresses, texts, begun) = (&addresses, &texts, &begun);
                    move || ask(client, addresses, texts, digests, begun)
                })
            })
            .collect();
        wait_for(&begun, JOBS / 4);
        // The scheduler, where it lies: written beside and renamed.
        let scheduler = expect(fs::read(plugins.join("scheduler.wasm")));
        let staged = plugins.join("scheduler.new");
        expect(fs::write(&staged, another(&scheduler)));
        expect(fs::rename(&staged, plugins.join("scheduler.wasm")));
        swarm.node(0).signal("HUP");
        // The new version of the blocks beside the old one, then alone.
        wait_for(&begun, JOBS / 3);
        for packages in [vec![old.clone(), new.clone()], vec![new.clone()]] {
            for at in 0..4 {
                let node = swarm.node(at);
                node.part.packages = packages.iter().map(|package| (package.clone(), vec![])).collect();
                node.write_settings();
                node.signal("HUP");
            }
            if packages.len() == 2 {
                wait_for(&begun, JOBS * 3 / 4);
            }
        }
        asking.into_iter().flat_map(|asking| expect(asking.join())).collect()
    });
    assert_eq!(answers.len(), JOBS);

    let component = expect(fs::read(packed::plugins().join("scheduler.wasm")));
    let schedulers =
        [component.clone(), another(&component)].map(|c| expect(Scheduler::load(&c, &tiny.home(), &quick())));
    let options = AuditOptions { run: quick(), policy: policy(), method: Method::Replay };
    let mut auditors = [&old, &new].map(|package| expect(Auditing::open(package, &tiny.home(), &options)));
    let mut versions: BTreeMap<(Digest, Digest), usize> = BTreeMap::new();
    for answer in &answers {
        assert_eq!(answer.digest, expected);
        let package = answer.signed.receipt.package;
        let at = expect(digests.iter().position(|digest| *digest == package).ok_or("a third version"));
        let report = expect(auditors[at].audit(&answer.signed, &Given::default(), &Choice::All, &unwatched));
        assert!(matches!(report.verdict, Verdict::Accept(_)), "{:?}", report.verdict);
        for plan in &answer.plans {
            let scheduler = schedulers.iter().find(|s| s.digest() == plan.record.component);
            let scheduler = expect(scheduler.ok_or("a third scheduler"));
            *versions.entry((package, scheduler.digest())).or_default() += 1;
            let snapshot = snapshot(&addresses, plan.record.snapshot);
            assert_eq!(audit_plan(scheduler, plan, &snapshot), PlanVerdict::Follows);
        }
    }
    println!("plans by versions of package and scheduler: {:?}", versions.values().collect::<Vec<_>>());
    let of = |part: &dyn Fn(&(Digest, Digest)) -> Digest| {
        versions.keys().map(part).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((of(&|v| v.0), of(&|v| v.1)), (2, 2), "both versions of both were used");
}

fn dedup(mut roles: Vec<&'static str>) -> Vec<&'static str> {
    roles.dedup();
    roles
}

fn wait_for(begun: &AtomicUsize, count: usize) {
    while begun.load(Ordering::Relaxed) < count {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ask a quarter of the jobs; from the middle on for the new package.
fn ask(
    client: u8,
    addresses: &[String],
    texts: &[String],
    digests: [Digest; 2],
    begun: &AtomicUsize,
) -> Vec<SwarmAnswer> {
    let runtime = expect(tokio::runtime::Builder::new_current_thread().enable_all().build());
    runtime.block_on(async {
        let client = expect(SwarmClient::connect(addresses, key(100 + client)).await);
        let mut answers = Vec::new();
        loop {
            let at = begun.fetch_add(1, Ordering::Relaxed);
            if at >= JOBS {
                break;
            }
            let package = digests[usize::from(at >= JOBS / 2)];
            let request = Request::of_texts(package, texts.to_vec());
            let verify = Verify::Quorum { needed: 2, nodes: 3 };
            let asked = SwarmRequest { request, verify, batch: 2, package: None, within: Duration::from_secs(60) };
            answers.push(client.run(&asked).await.unwrap_or_else(|error| panic!("job {at}: {error}")));
        }
        client.close().await;
        answers
    })
}

fn snapshot(addresses: &[String], digest: Digest) -> ostrakon_protocol::Snapshot {
    let runtime = expect(tokio::runtime::Builder::new_current_thread().enable_all().build());
    runtime.block_on(async {
        let client = expect(SwarmClient::connect(addresses, key(99)).await);
        let node = client.bootstrap()[0];
        let snapshot = expect(client.snapshot(node, digest).await);
        client.close().await;
        snapshot
    })
}
