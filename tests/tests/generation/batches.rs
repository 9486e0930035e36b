//! What is generated does not depend on who else asks, on what was asked before, or on how it is cut into calls.

use ostrakon_node::generate::{
    Done, End, GenerateRequest, Generator, Likelihood, Limits, Message, Piece, Pieces, Refusal, Sampling,
};
use ostrakon_tests::tiny::{Random, Tiny, expect, policy, quick};
use ostrakon_tests::tiny_writer::{BEGIN, CONTEXT, END, VOCABULARY, package};
use std::time::{Duration, Instant};

fn generator(tiny: &Tiny, limits: Limits) -> Generator {
    expect(Generator::open(&package(tiny.path(), 1), &policy(), &tiny.home(), &quick(), limits))
}

fn request(prompt: Vec<u32>, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        client: 0,
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        stop: Vec::new(),
        likelihoods: None,
        prompt_likelihoods: false,
        reuse: false,
    }
}

/// Everything that comes of a request.
#[derive(Debug, PartialEq)]
struct Answer {
    prompt: Vec<Option<Likelihood>>,
    tokens: Vec<u32>,
    likelihoods: Vec<Option<Likelihood>>,
    done: Done,
}

fn collect(mut pieces: Pieces) -> Answer {
    let (mut prompt, mut tokens, mut likelihoods) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(piece) = pieces.blocking_next() {
        match piece {
            Piece::Prompt(all) => prompt = all,
            Piece::Token { token, likelihood } => {
                tokens.push(token);
                likelihoods.push(likelihood);
            }
            Piece::Done(done) => return Answer { prompt, tokens, likelihoods, done },
            Piece::Failed(reason) | Piece::Unavailable(reason) => panic!("{reason}"),
        }
    }
    panic!("no end came after {} tokens", tokens.len())
}

fn answer(generator: &Generator, request: GenerateRequest) -> Answer {
    collect(generator.ask(request).unwrap())
}

fn words(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.below(256) as u32).collect()
}

/// Requests of all kinds.
fn requests(random: &mut Random, count: usize) -> Vec<GenerateRequest> {
    (0..count)
        .map(|at| {
            let length = 1 + random.below(90);
            let sampling = match at % 3 {
                0 => Sampling::default(),
                1 => Sampling { temperature: 0.8, seed: random.next(), top_p: 0.9, ..Sampling::default() },
                _ => Sampling {
                    temperature: 1.5,
                    seed: random.next(),
                    top_k: 20,
                    repetition_penalty: 1.3,
                    presence_penalty: 0.5,
                    ..Sampling::default()
                },
            };
            let likelihoods = (at % 2 == 0).then_some(3);
            let prompt_likelihoods = at % 5 == 0;
            let request = request(words(random, length), 1 + random.below(40) as u32);
            GenerateRequest { client: at as u64 % 4, sampling, likelihoods, prompt_likelihoods, ..request }
        })
        .collect()
}

#[test]
fn an_answer_is_the_same_alone_and_among_others_and_after_others() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits { sequences: 16, ..Limits::default() });
    let all = requests(&mut Random(3), 48);
    let alone: Vec<Answer> = all.iter().map(|one| answer(&generator, one.clone())).collect();
    // Twice: the second time what the first left is gone on from.
    for reuse in [false, true, true] {
        let asked: Vec<Pieces> =
            all.iter().map(|one| generator.ask(GenerateRequest { reuse, ..one.clone() }).unwrap()).collect();
        for ((pieces, alone), request) in asked.into_iter().zip(&alone).zip(&all) {
            let among = collect(pieces);
            assert_eq!(among.tokens, alone.tokens);
            assert_eq!(among.likelihoods, alone.likelihoods);
            assert_eq!(among.prompt, alone.prompt);
            assert_eq!(among.tokens.len() as u32, request.max_tokens);
        }
    }
    let statistics = generator.statistics();
    assert!(statistics.reused_tokens > 500, "{statistics:?}");
    assert!(statistics.calls * 2 < statistics.generated_tokens, "nothing went together: {statistics:?}");
    // The last piece is told a moment before it is counted.
    until("somebody runs on", || generator.statistics().running + generator.statistics().waiting == 0);
}

#[test]
fn what_was_generated_is_as_likely_when_it_is_a_prompt() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits::default());
    let mut random = Random(4);
    for length in [1, 2, 63, 64, 65, 130] {
        let prompt = words(&mut random, length);
        let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::default() };
        let asked = GenerateRequest { likelihoods: Some(2), sampling, ..request(prompt.clone(), 30) };
        let first = answer(&generator, asked.clone());
        let whole = [prompt, first.tokens.clone()].concat();
        let looked_at = GenerateRequest { prompt_likelihoods: true, max_tokens: 0, ..asked };
        let second = answer(&generator, GenerateRequest { prompt: whole.clone(), ..looked_at });
        assert_eq!(second.prompt.len(), whole.len());
        assert_eq!((second.prompt[0].clone(), second.tokens.len()), (None, 0));
        assert_eq!(second.prompt[length..], first.likelihoods[..]);
        assert_eq!(second.done.end, End::Length);
    }
}

#[test]
fn an_answer_ends_at_its_mark_and_at_the_context() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits::default());
    let all = answer(&generator, request(vec![1, 2, 3], 60));
    // Whichever token it is: it is the last one as soon as it ends answers.
    let mark = all.tokens[20];
    let first = all.tokens.iter().position(|&token| token == mark).unwrap();
    let ended = answer(&generator, GenerateRequest { stop: vec![mark], ..request(vec![1, 2, 3], 60) });
    assert_eq!((ended.done.end, &ended.tokens[..]), (End::Stop, &all.tokens[..=first]));
    let full = answer(&generator, request(vec![7; CONTEXT - 5], 60));
    assert_eq!((full.done.end, full.tokens.len()), (End::Length, 5));
    assert_eq!(generator.stop_tokens(), [END]);
}

#[test]
fn what_makes_no_sense_is_refused_and_named() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits::default());
    let refusal = |request| generator.ask(request).unwrap_err();
    assert_eq!(refusal(request(Vec::new(), 1)), Refusal::Empty);
    let context = CONTEXT;
    assert_eq!(refusal(request(vec![0; context], 1)), Refusal::TooLong { tokens: context, context });
    let vocabulary = VOCABULARY as u32;
    assert_eq!(refusal(request(vec![1, vocabulary], 1)), Refusal::Token { token: vocabulary, vocabulary });
    assert_eq!(refusal(GenerateRequest { likelihoods: Some(21), ..request(vec![1], 1) }), Refusal::Top(21));
    let hot = Sampling { temperature: f32::INFINITY, ..Sampling::default() };
    let setting = refusal(GenerateRequest { sampling: hot, ..request(vec![1], 1) }).to_string();
    assert_eq!(setting, "`temperature` is inf: 0 to 100");
    // A prompt as long as the context can be looked at.
    let looked_at = GenerateRequest { prompt_likelihoods: true, ..request(vec![3; context], 0) };
    assert_eq!(answer(&generator, looked_at).prompt.len(), context);
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn who_leaves_is_forgotten_and_who_is_too_many_is_told() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits { sequences: 2, waiting: 3, ..Limits::default() });
    let long = || request(vec![1], CONTEXT as u32 - 1);
    let mut all = Vec::new();
    let refused = loop {
        match generator.ask(long()) {
            Ok(pieces) => all.push(pieces),
            Err(refusal) => break refusal,
        }
        assert!(all.len() < 1000, "nobody is ever told to wait");
    };
    assert!(matches!(refused, Refusal::Busy { waiting: 3, after } if after >= Duration::from_secs(1)), "{refused:?}");
    drop(all);
    until("those who left run on", || {
        let statistics = generator.statistics();
        statistics.running == 0 && statistics.waiting == 0
    });
    let generated = generator.statistics().generated_tokens;
    assert_eq!(answer(&generator, request(vec![1], 3)).tokens.len(), 3);
    assert_eq!(generator.statistics().generated_tokens, generated + 3);
}

#[test]
fn what_waits_when_the_generator_ends_is_ended() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits { sequences: 1, ..Limits::default() });
    let mut all: Vec<Pieces> = (0..20).map(|_| generator.ask(request(vec![1], CONTEXT as u32 - 1)).unwrap()).collect();
    drop(generator);
    for pieces in &mut all {
        while pieces.blocking_next().is_some() {}
    }
}

#[test]
fn a_conversation_becomes_a_prompt_and_tokens_become_text() {
    let tiny = Tiny::new();
    let generator = generator(&tiny, Limits::default());
    let said = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let prompt = generator.prompt_of(&[said("user", "Hi <|im_end|>")]).unwrap();
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let marked = [vec![BEGIN], bytes("user\nHi "), vec![END, END], bytes("\n"), vec![BEGIN], bytes("assistant\n")];
    assert_eq!(prompt, marked.concat());
    assert_eq!(generator.tokens_of("né").unwrap(), bytes("né"));

    let text = |tokens: &[u32], stop: &[&str]| {
        let mut stream = generator.text_stream(stop.iter().map(|&s| s.to_owned()).collect());
        let mut pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token)).collect();
        pieces.push(stream.finish());
        (pieces.concat(), stream.is_stopped())
    };
    let one = |text_of: &str, stop: &[&str]| text(&bytes(text_of), stop);
    assert_eq!(text(&[bytes("a né, "), vec![END]].concat(), &[]), ("a né, ".into(), false));
    assert_eq!(one("one two three", &["o t"]), ("one tw".into(), true));
    assert_eq!(one("one two", &["two three", "", "ne"]), ("o".into(), true));
    assert_eq!(one("one two", &["two three"]), ("one two".into(), false));
    // A character comes when it is whole; what never becomes one is shown as that.
    let mut stream = generator.text_stream(Vec::new());
    let pieces: Vec<String> = bytes("é😀").into_iter().map(|token| stream.push(token)).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "😀"]);
    assert_eq!(text(&[0x61, 0xff], &[]), ("a\u{fffd}".into(), false));
}
