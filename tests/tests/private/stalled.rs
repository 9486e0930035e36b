//! A server that stalls where nobody can take its place.

use crate::runs::User;
use ostrakon_node::RunOptions;
use ostrakon_node::progress::unwatched;
use ostrakon_tests::packed::{self, binary, minilm};
use ostrakon_tests::swarm::{Part, Swarm};
use ostrakon_tests::tiny::expect;
use std::time::{Duration, Instant};

/// What nodes that come back are waited for, and some calls that nobody answered.
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn it_is_named_after_a_while_and_waited_for_before() {
    let part = |roles: &[&'static str], operator: &str| Part {
        operator: operator.to_owned(),
        roles: roles.to_vec(),
        packages: vec![(minilm(1), Vec::new())],
        ..Part::default()
    };
    let parts = [part(&["execution", "scheduling"], "ann"), part(&["execution"], "ben")];
    let mut swarm = Swarm::start(&binary(), &parts, false);
    let options = RunOptions { plugins: Some(packed::plugins()), ..RunOptions::default() };
    let user = User::new(swarm.schedulers(), packed::home(), options);
    user.until_served(2);
    let text = ["A man is eating food.".to_owned()];
    let (mut model, _) = expect(user.open(&minilm(1), 2));
    let first = expect(model.run(&text, None, &unwatched)).answer.digest;

    // Long enough for a call to fail, not for giving up.
    swarm.node(1).signal("STOP");
    let wake = std::thread::scope(|scope| {
        let run = scope.spawn(|| model.run(&text, None, &unwatched).map(|answer| answer.answer.digest));
        std::thread::sleep(Duration::from_secs(8));
        swarm.node(1).signal("CONT");
        run.join().unwrap()
    });
    assert_eq!(expect(wake), first, "a node that is back within seconds is used again");

    swarm.node(1).signal("STOP");
    let began = Instant::now();
    let error = model.run(&text, None, &unwatched).unwrap_err().in_full();
    let took = began.elapsed();
    swarm.node(1).signal("CONT");
    println!("given up after {:.1} s: {error}", took.as_secs_f64());
    assert!(took < PATIENCE, "{took:?}: {error}");
    assert!(error.contains("nobody can take its place") || error.contains("without those who failed"), "{error}");
    model.close();
}
