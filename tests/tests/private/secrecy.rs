//! What servers get of a private run says nothing about the text: the real component, real models, two texts as different as
//! possible, many runs of each.
//!
//! # How
//!
//! 1. A run draws fresh seeds from the system, one for each server but the first; the others hold masks, layer by layer. A test's
//!    servers multiply honestly and keep what the server without a seed gets, and what it and all but one of the others know
//!    together.
//! 2. Both texts have as many tokens. One is the same token over and over, the other is random.
//! 3. [`battery`] asks of each view whether it is uniform and independent of the codes, of both whether they are alike, and of
//!    differences (between the texts, between runs of one text, between neighbouring rows, between the same layers of two blocks)
//!    whether they are uniform: where a mask is used twice, they are differences of codes.
//! 4. **Significance**: [`SIGNIFICANCE`] for everything in this file together, divided by [`MOST_TESTS`] (Bonferroni). Seeds are
//!    fresh, so each time it is another experiment, and with a sound splitter one in a million fails. Bounds: see
//!    `ostrakon_tests::statistics`.
//! 5. Broken splitters give the right answers too, and must be rejected by the same battery.

use ostrakon_engine::sharing::Seed;
use ostrakon_exact::field::P;
use ostrakon_nn::{Masked, Servers, SharedError, SharedLayer, Tensor, Wrong};
use ostrakon_tests::native::NativeBert;
use ostrakon_tests::packed::minilm;
use ostrakon_tests::private::{Bench, Component, elements, fresh_seed, lock, opened, place, tensor};
use ostrakon_tests::statistics::{Limbs, correlation, ks_alike, ks_uniform};
use ostrakon_tests::tiny::{MAX_TOKENS, Random, Tiny, WORDS};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// With a sound splitter, how often anything here fails at most.
const SIGNIFICANCE: f64 = 1e-6;
/// Tests in this file: no more are made.
const MOST_TESTS: usize = 400;
/// Below this a test rejects.
const REJECT: f64 = SIGNIFICANCE / MOST_TESTS as f64;

/// How masks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Sound,
    /// The same seed in every run.
    ConstantSeed,
    /// A fresh seed for a run of each text, the same for both.
    Reused,
    /// One row of a mask for all rows.
    SameRow,
    /// One stream for all layers.
    SameStream,
    /// Words of 30 bits modulo p.
    ThirtyBits,
    /// Masks of 24 bits, drawn as floats may be: the low bits are always 0.
    Coarse,
    /// Codes and a mask of no more than 16 bits.
    Small,
    /// The last column of each row has no mask.
    OpenColumn,
}

const BROKEN: [Manner; 8] = [
    Manner::ConstantSeed,
    Manner::Reused,
    Manner::SameRow,
    Manner::SameStream,
    Manner::ThirtyBits,
    Manner::Coarse,
    Manner::Small,
    Manner::OpenColumn,
];

/// A call as servers see it.
struct Call {
    width: usize,
    /// What the server without a seed gets.
    share: Vec<u32>,
    /// What it knows with the masks of all other servers but one.
    together: Vec<u32>,
}

/// Servers that keep what they get.
struct Recording {
    bench: Arc<Bench>,
    component: Arc<Component>,
    manner: Manner,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seeds: Vec<Seed>,
    /// Every row of a mask that was ever used.
    used: BTreeSet<(Seed, u32, usize)>,
    calls: Vec<Call>,
    /// The masks that all servers know but one.
    known: Option<Tensor>,
}

impl Recording {
    fn begin(&self, seeds: &[Seed]) {
        lock(&self.state).seeds = seeds.to_vec();
    }

    /// A mask that only this manner makes.
    fn spoilt(&self, sound: &Tensor) -> Tensor {
        let width = sound.dims()[1] as usize;
        let mut mask = elements(sound).to_vec();
        for (at, x) in mask.iter_mut().enumerate() {
            *x = match self.manner {
                Manner::ThirtyBits => *x & ((1 << 30) - 1),
                Manner::Coarse => *x & !0x7f,
                Manner::Small => P - 1 - (*x & 0xffff),
                Manner::OpenColumn if at % width == width - 1 => 0,
                _ => *x,
            };
        }
        if self.manner == Manner::SameRow {
            for at in width..mask.len() {
                mask[at] = mask[at - width];
            }
        }
        tensor(mask.len() / width, width, &mask)
    }
}

impl Servers for Recording {
    type Who = &'static str;

    fn register(&self, _: &Arc<SharedLayer>) {}

    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError> {
        let mut state = lock(&self.state);
        let stream = if self.manner == Manner::SameStream { 0 } else { layer.stream() };
        let seeds = state.seeds.clone();
        for (seed, row) in seeds.iter().flat_map(|seed| (0..rows).map(move |row| (*seed, row))) {
            let fresh = state.used.insert((seed, stream, row));
            assert!(fresh || self.manner != Manner::Sound, "a row of a mask is used twice");
        }
        let masks: Vec<Tensor> =
            seeds.iter().map(|&seed| self.spoilt(&self.component.mask(&[seed], place(layer, stream, rows)))).collect();
        let sum = |masks: &[Tensor]| {
            let add = |sum: Vec<u32>, mask: &Tensor| {
                sum.iter().zip(elements(mask)).map(|(&a, &b)| modulo(u64::from(a) + u64::from(b))).collect()
            };
            tensor(rows, layer.inputs(), &masks.iter().fold(vec![0; rows * layer.inputs()], add))
        };
        // Where the real client has several seeds, the component sums up; here too.
        let mask = match self.manner {
            Manner::Sound => self.component.mask(&seeds, place(layer, stream, rows)),
            _ => sum(&masks),
        };
        state.known = Some(sum(&masks[1..]));
        let products = masks.iter().map(|mask| self.bench.multiply(layer.name(), mask)).collect::<Vec<_>>();
        for (mask, product) in masks.iter().zip(&products) {
            assert_eq!(layer.check(&*self.component, mask, product), Ok(None));
        }
        Ok(Masked { mask, products })
    }

    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, Self::Who), SharedError> {
        let mut state = lock(&self.state);
        let known = state.known.take().unwrap();
        let together = elements(share).iter().zip(elements(&known)).map(|(&a, &b)| modulo(u64::from(a) + u64::from(b)));
        let (share_elements, together) = (elements(share).to_vec(), together.collect());
        state.calls.push(Call { width: layer.inputs(), share: share_elements, together });
        Ok((self.bench.multiply(layer.name(), share), "the server"))
    }

    fn wrong(&self, who: &Self::Who, wrong: &Wrong) {
        panic!("{who} is honest: {wrong:?}");
    }
}

fn modulo(x: u64) -> u32 {
    (x % u64::from(P)) as u32
}

fn difference(a: u32, b: u32) -> u32 {
    modulo(u64::from(a) + u64::from(P) - u64::from(b))
}

/// What was seen of one text, run by run.
#[derive(Default)]
struct Seen {
    /// Each run's elements, one after another.
    runs: Vec<Vec<u32>>,
    /// The codes: the same in every run.
    codes: Vec<u32>,
    /// Elements of each call of a run, and of a row of it.
    calls: Vec<(usize, usize)>,
}

impl Seen {
    /// Differences of runs 0 and 1, 2 and 3, ...: no element is in two of them.
    fn between_runs(&self) -> impl Iterator<Item = u32> {
        self.runs.chunks_exact(2).flat_map(|two| two[0].iter().zip(&two[1]).map(|(&a, &b)| difference(a, b)))
    }

    /// Differences of rows 0 and 1, 2 and 3, ... of each call.
    fn between_rows(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for run in &self.runs {
            let mut at = 0;
            for &(len, width) in &self.calls {
                for two in run[at..at + len].chunks_exact(2 * width) {
                    all.extend((0..width).map(|i| difference(two[i], two[width + i])));
                }
                at += len;
            }
        }
        all
    }

    /// Differences of the same layers of blocks 0 and 1.
    fn between_layers(&self) -> Vec<u32> {
        let block: usize = self.calls[..4].iter().map(|&(len, _)| len).sum();
        assert_eq!(self.calls[..4], self.calls[4..8]);
        self.runs.iter().flat_map(|run| (0..block).map(|i| difference(run[i], run[block + i]))).collect()
    }

    fn sorted(&self) -> Vec<u32> {
        let mut all = self.runs.concat();
        all.sort_unstable();
        all
    }

    fn limbs(&self) -> Limbs {
        Limbs::of(self.runs.iter().flatten().copied())
    }
}

/// All tests of two texts: their names and bounds on the probabilities of such results.
fn battery(a: &Seen, b: &Seen) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let mut limbs = |name: &str, ps: [f64; 4]| {
        all.extend(ps.into_iter().enumerate().map(|(limb, p)| (format!("{name}: chi-squared, limb {limb}"), p)));
    };
    let (of_a, of_b) = (a.limbs(), b.limbs());
    limbs("a is uniform", of_a.uniform());
    limbs("b is uniform", of_b.uniform());
    limbs("a and b are alike", of_a.alike(&of_b));
    let between = a.runs.iter().flatten().zip(b.runs.iter().flatten()).map(|(&a, &b)| difference(a, b));
    limbs("a less b", Limbs::of(between).uniform());
    for (name, seen) in [("a", a), ("b", b)] {
        limbs(&format!("{name} between runs"), Limbs::of(seen.between_runs()).uniform());
        limbs(&format!("{name} between rows"), Limbs::of(seen.between_rows()).uniform());
        limbs(&format!("{name} between layers"), Limbs::of(seen.between_layers()).uniform());
    }
    let (sorted_a, sorted_b) = (a.sorted(), b.sorted());
    all.push(("a is uniform: Kolmogorov-Smirnov".to_owned(), ks_uniform(&sorted_a)));
    all.push(("b is uniform: Kolmogorov-Smirnov".to_owned(), ks_uniform(&sorted_b)));
    all.push(("a and b are alike: Kolmogorov-Smirnov".to_owned(), ks_alike(&sorted_a, &sorted_b)));
    for (name, seen, codes) in [("a", a, &a.codes), ("b", b, &b.codes), ("a with the other text", a, &b.codes)] {
        let codes: Vec<u32> = seen.runs.iter().flat_map(|_| codes).copied().collect();
        all.push((format!("{name}: correlation with codes"), correlation(&seen.runs.concat(), &codes).0));
    }
    all
}

/// A package, ready to run as often as is wanted.
struct Runner {
    servers: Arc<Recording>,
    component: Arc<Component>,
    private: NativeBert,
    plain: NativeBert,
}

impl Runner {
    fn new(bench: &Arc<Bench>, package: &Path, manner: Manner) -> Self {
        let manifest = opened(package);
        let component = Component::start(&bench.executor, true);
        let servers = Recording { bench: bench.clone(), component: component.clone(), manner, state: Mutex::default() };
        let servers = Arc::new(servers);
        let host = Arc::new(bench.shared(component.clone(), servers.clone()));
        let plain = Arc::new(Bench::new(manifest.clone()).host);
        let open = |host| NativeBert::open(host, manifest.manifest()).unwrap();
        Self { servers, component, private: open(host), plain: open(plain) }
    }

    /// Run both texts so often, and keep what the server without a seed has, and what all but one have.
    fn run(&self, texts: [&[i32]; 2], lengths: &[u32], runs: usize, servers: usize) -> [[Seen; 2]; 2] {
        let mut seen: [[Seen; 2]; 2] = Default::default();
        let tokens = |ids: &[i32]| Tensor::from_i32(vec![ids.len() as u32], ids.to_vec()).unwrap();
        let lengths = lengths.iter().map(|&n| n as i32).collect::<Vec<_>>();
        let lengths = tokens(&lengths);
        let fresh = || (1..servers).map(|_| fresh_seed()).collect::<Vec<_>>();
        let (constant, plain) = (fresh(), texts.map(|ids| self.plain.forward(tokens(ids), &lengths).unwrap()));
        for _ in 0..runs {
            let one = fresh();
            for (text, ids) in texts.into_iter().enumerate() {
                self.servers.begin(&match self.servers.manner {
                    Manner::ConstantSeed => constant.clone(),
                    Manner::Reused => one.clone(),
                    _ => fresh(),
                });
                let answer = self.private.forward(tokens(ids), &lengths).unwrap();
                assert_eq!(answer.bytes(), plain[text].bytes(), "{:?}", self.servers.manner);
                let calls = std::mem::take(&mut lock(&self.servers.state).calls);
                let codes: Vec<u32> =
                    self.component.take_codes().iter().flat_map(|codes| elements(codes).to_vec()).collect();
                for (view, seen) in seen.iter_mut().enumerate() {
                    let seen = &mut seen[text];
                    let elements = |call: &Call| if view == 0 { call.share.clone() } else { call.together.clone() };
                    seen.runs.push(calls.iter().flat_map(elements).collect());
                    assert_eq!(seen.runs[0].len(), codes.len());
                    assert!(seen.codes.is_empty() || seen.codes == codes);
                    seen.codes.clone_from(&codes);
                    seen.calls = calls.iter().map(|call| (call.share.len(), call.width)).collect();
                }
            }
        }
        seen
    }
}

/// Tiny texts: as many as make a batch of many rows.
const TINY_TEXTS: usize = 40;

fn tiny_texts() -> ([Vec<i32>; 2], Vec<u32>) {
    let rows = TINY_TEXTS * MAX_TOKENS;
    let mut random = Random(3);
    let ids = (0..rows).map(|_| random.below(WORDS + 1) as i32).collect();
    ([vec![1; rows], ids], vec![MAX_TOKENS as u32; TINY_TEXTS])
}

fn least(all: &[(String, f64)]) -> (&str, f64) {
    let (name, p) = all.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    (name, *p)
}

#[test]
fn what_servers_get_of_two_texts_cannot_be_told_apart() {
    let tiny = Tiny::new();
    let tiny_package = tiny.honest(1);
    let (tiny_ids, tiny_lengths) = tiny_texts();
    let mut random = Random(4);
    let large = [vec![2003; 128], (0..128).map(|_| random.below(30_000) as i32).collect()];
    let (mut tests, mut failed) = (0, Vec::new());
    for (name, package, ids, lengths, runs, servers) in [
        ("tiny, 2 servers", tiny_package.clone(), &tiny_ids, tiny_lengths.as_slice(), 40, 2),
        ("tiny, 3 servers", tiny_package, &tiny_ids, tiny_lengths.as_slice(), 20, 3),
        ("MiniLM, 2 servers", minilm(1), &large, &[128], 4, 2),
    ] {
        let start = Instant::now();
        let bench = Arc::new(Bench::new(opened(&package)));
        let runner = Runner::new(&bench, &package, Manner::Sound);
        let seen = runner.run([&ids[0], &ids[1]], lengths, runs, servers);
        let [alone, together] = seen;
        // With two servers there is nobody to get together with but the one that makes it all of them.
        for (view, [a, b]) in [("alone", alone), ("all but one", together)].into_iter().take(servers - 1) {
            let all = battery(&a, &b);
            let (worst, p) = least(&all);
            println!(
                "{name}, {view}: {} elements of each text in {runs} runs, {} tests, least p {p:.3} ({worst}), {:.1} s",
                a.runs.iter().map(Vec::len).sum::<usize>(),
                all.len(),
                start.elapsed().as_secs_f64()
            );
            tests += all.len();
            failed.extend(all.into_iter().filter(|&(_, p)| p < REJECT));
        }
    }
    assert!(tests <= MOST_TESTS, "{tests} tests");
    assert!(failed.is_empty(), "below {REJECT:.1e}: {failed:?}");
}

#[test]
fn broken_splitters_are_rejected() {
    let tiny = Tiny::new();
    let package = tiny.honest(1);
    let bench = Arc::new(Bench::new(opened(&package)));
    let (ids, lengths) = tiny_texts();
    let run = |manner| {
        let runner = Runner::new(&bench, &package, manner);
        let [[a, b], _] = runner.run([&ids[0], &ids[1]], &lengths, 8, 2);
        battery(&a, &b)
    };
    // As few runs of a sound one are accepted.
    let sound = run(Manner::Sound);
    assert!(sound.iter().all(|&(_, p)| p >= REJECT), "{:?}", least(&sound));
    for manner in BROKEN {
        let all = run(manner);
        let caught: Vec<_> = all.iter().filter(|&&(_, p)| p < REJECT).map(|(name, _)| name.as_str()).collect();
        println!(
            "{manner:?}: {} of {} tests reject, the first is `{}`",
            caught.len(),
            all.len(),
            caught.first().unwrap_or(&"none")
        );
        assert!(!caught.is_empty(), "{manner:?} passes");
    }
}
