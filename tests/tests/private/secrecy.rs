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
//!    whether they are uniform: where a mask is used twice, they are differences of codes. It does so for each field by itself, as
//!    elements of both are not of one distribution. [`between_fields`] asks whether layers of both have a mask in common.
//! 4. **Significance**: [`SIGNIFICANCE`] for everything in this file together, divided by [`MOST_TESTS`] (Bonferroni). Seeds are
//!    fresh, so each time it is another experiment, and with a sound splitter one in a million fails. Bounds: see
//!    `ostrakon_tests::statistics`.
//! 5. Broken splitters give the right answers too, and must be rejected by the same battery.

use ostrakon_engine::sharing::Seed;
use ostrakon_exact::field::Field;
use ostrakon_nn::{Masked, Servers, SharedError, SharedLayer, Tensor, Wrong};
use ostrakon_tests::native::NativeBert;
use ostrakon_tests::packed::minilm;
use ostrakon_tests::private::{Bench, Component, elements, fresh_seed, lock, opened, place, tensor};
use ostrakon_tests::statistics::{Limbs, correlation, ks_alike, ks_uniform};
use ostrakon_tests::tiny::{MAX_TOKENS, Random, Tiny, WORDS};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// With a sound splitter, how often anything here fails at most.
const SIGNIFICANCE: f64 = 1e-6;
/// Tests of two texts: three limbs, then four, ten times, and six others in each field; and three limbs of each text between fields.
const TESTS: usize = 10 * (3 + 4) + 2 * 6 + 2 * 3;
/// Tests in this file of what is sound: of four views, and of one of few runs.
const MOST_TESTS: usize = 5 * TESTS;
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
    /// A stream for a layer of each field.
    StreamOfTwo,
    /// Words of a bit less.
    BitShort,
    /// The low bits are always 0, as they are where floats are drawn.
    Coarse,
    /// Codes and a mask of no more than 16 bits.
    Small,
    /// The last column of each row has no mask.
    OpenColumn,
}

/// Those that show in each field.
const BROKEN: [Manner; 8] = [
    Manner::ConstantSeed,
    Manner::Reused,
    Manner::SameRow,
    Manner::SameStream,
    Manner::BitShort,
    Manner::Coarse,
    Manner::Small,
    Manner::OpenColumn,
];

/// A call as servers see it.
struct Call {
    field: Field,
    /// Which layer of its block.
    layer: String,
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
    fn spoilt(&self, field: Field, sound: &Tensor) -> Tensor {
        let width = sound.dims()[1] as usize;
        let mut mask = elements(sound).to_vec();
        for (at, x) in mask.iter_mut().enumerate() {
            *x = match self.manner {
                Manner::BitShort => *x & (field.mask() >> 1),
                Manner::Coarse => *x & !0x7f,
                Manner::Small => field.prime() - 1 - (*x & 0xffff),
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
        let (field, stream) = (layer.field(), layer.stream());
        let stream = match self.manner {
            Manner::SameStream => 0,
            Manner::StreamOfTwo => stream / 2,
            _ => stream,
        };
        let seeds = state.seeds.clone();
        for (seed, row) in seeds.iter().flat_map(|seed| (0..rows).map(move |row| (*seed, row))) {
            let fresh = state.used.insert((seed, stream, row));
            assert!(fresh || self.manner != Manner::Sound, "a row of a mask is used twice");
        }
        let mask = |&seed: &Seed| self.spoilt(field, &self.component.mask(&[seed], place(layer, stream, rows)));
        let masks: Vec<Tensor> = seeds.iter().map(mask).collect();
        let sum = |masks: &[Tensor]| {
            let add = |sum: Vec<u32>, mask: &Tensor| {
                sum.iter().zip(elements(mask)).map(|(&a, &b)| total(field, a, b)).collect()
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
        let field = layer.field();
        let together = elements(share).iter().zip(elements(&known)).map(|(&a, &b)| total(field, a, b)).collect();
        let name = layer.name().splitn(3, '.').last().unwrap().to_owned();
        let (width, share_elements) = (layer.inputs(), elements(share).to_vec());
        state.calls.push(Call { field, layer: name, width, share: share_elements, together });
        Ok((self.bench.multiply(layer.name(), share), "the server"))
    }

    fn wrong(&self, who: &Self::Who, wrong: &Wrong) {
        panic!("{who} is honest: {wrong:?}");
    }
}

fn total(field: Field, a: u32, b: u32) -> u32 {
    ((u64::from(a) + u64::from(b)) % u64::from(field.prime())) as u32
}

fn difference(field: Field, a: u32, b: u32) -> u32 {
    total(field, a, field.prime() - b)
}

/// What was seen of one text in layers of one field, run by run.
struct Seen {
    field: Field,
    /// Each run's elements, one after another.
    runs: Vec<Vec<u32>>,
    /// The codes: the same in every run.
    codes: Vec<u32>,
    /// The layer of each call of a run, its elements, and those of a row of it.
    calls: Vec<(String, usize, usize)>,
}

/// By field.
type Text = [Seen; 2];

impl Seen {
    fn nothing() -> Text {
        Field::ALL.map(|field| Self { field, runs: Vec::new(), codes: Vec::new(), calls: Vec::new() })
    }

    /// Note one run: its calls, what is seen of each, and its codes.
    fn note(&mut self, calls: &[Call], codes: &[Tensor], view: impl Fn(&Call) -> &[u32]) {
        assert_eq!(calls.len(), codes.len());
        let ours: Vec<_> = calls.iter().zip(codes).filter(|(call, _)| call.field == self.field).collect();
        let codes: Vec<u32> = ours.iter().flat_map(|(_, codes)| elements(codes)).copied().collect();
        self.runs.push(ours.iter().flat_map(|(call, _)| view(call)).copied().collect());
        assert_eq!(self.runs[0].len(), codes.len());
        assert!(self.codes.is_empty() || self.codes == codes);
        self.codes = codes;
        self.calls = ours.iter().map(|(call, _)| (call.layer.clone(), call.share.len(), call.width)).collect();
    }

    fn difference(&self, a: u32, b: u32) -> u32 {
        difference(self.field, a, b)
    }

    /// Where the elements of each call are in a run.
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        self.calls.iter().scan(0, |at, &(_, len, _)| {
            let from = std::mem::replace(at, *at + len);
            Some(from..*at)
        })
    }

    /// Differences of runs 0 and 1, 2 and 3, ...: no element is in two of them.
    fn between_runs(&self) -> impl Iterator<Item = u32> {
        self.runs.chunks_exact(2).flat_map(|two| two[0].iter().zip(&two[1]).map(|(&a, &b)| self.difference(a, b)))
    }

    /// Differences of rows 0 and 1, 2 and 3, ... of each call.
    fn between_rows(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for run in &self.runs {
            for (place, &(_, _, width)) in self.places().zip(&self.calls) {
                for two in run[place].chunks_exact(2 * width) {
                    all.extend((0..width).map(|i| self.difference(two[i], two[width + i])));
                }
            }
        }
        all
    }

    /// Differences of the same layers of two blocks: of the first that have it in this field, the next two, ...
    fn between_layers(&self) -> Vec<u32> {
        let mut blocks: BTreeMap<&str, Vec<Range<usize>>> = BTreeMap::new();
        for (place, (layer, ..)) in self.places().zip(&self.calls) {
            blocks.entry(layer).or_default().push(place);
        }
        let mut all = Vec::new();
        for run in &self.runs {
            for two in blocks.values().flat_map(|blocks| blocks.chunks_exact(2)) {
                let [a, b] = [0, 1].map(|at| &run[two[at].clone()]);
                assert_eq!(a.len(), b.len());
                all.extend(a.iter().zip(b).map(|(&a, &b)| self.difference(a, b)));
            }
        }
        all
    }

    fn sorted(&self) -> Vec<u32> {
        let mut all = self.runs.concat();
        all.sort_unstable();
        all
    }

    fn limbs(&self, elements: impl IntoIterator<Item = u32>) -> Limbs {
        Limbs::of(self.field, elements)
    }
}

/// The name of a test and a bound on the probability of such a result.
type Tested = (String, f64);

fn chi_squared(name: &str, ps: Vec<f64>) -> impl Iterator<Item = Tested> {
    ps.into_iter().enumerate().map(move |(limb, p)| (format!("{name}: chi-squared, limb {limb}"), p))
}

/// All tests of two texts in one field.
fn battery(a: &Seen, b: &Seen) -> Vec<Tested> {
    let field = a.field;
    assert_eq!(field, b.field);
    let mut all = Vec::new();
    let mut limbs = |name: &str, ps| all.extend(chi_squared(&format!("{field:?}, {name}"), ps));
    let [of_a, of_b] = [a, b].map(|seen| seen.limbs(seen.runs.iter().flatten().copied()));
    limbs("a is uniform", of_a.uniform());
    limbs("b is uniform", of_b.uniform());
    limbs("a and b are alike", of_a.alike(&of_b));
    let between = a.runs.iter().flatten().zip(b.runs.iter().flatten()).map(|(&x, &y)| a.difference(x, y));
    limbs("a less b", a.limbs(between).uniform());
    for (name, seen) in [("a", a), ("b", b)] {
        limbs(&format!("{name} between runs"), seen.limbs(seen.between_runs()).uniform());
        limbs(&format!("{name} between rows"), seen.limbs(seen.between_rows()).uniform());
        limbs(&format!("{name} between layers"), seen.limbs(seen.between_layers()).uniform());
    }
    let (sorted_a, sorted_b) = (a.sorted(), b.sorted());
    let mut other = |name: &str, p| all.push((format!("{field:?}, {name}"), p));
    other("a is uniform: Kolmogorov-Smirnov", ks_uniform(field, &sorted_a));
    other("b is uniform: Kolmogorov-Smirnov", ks_uniform(field, &sorted_b));
    other("a and b are alike: Kolmogorov-Smirnov", ks_alike(&sorted_a, &sorted_b));
    for (name, seen, codes) in [("a", a, &a.codes), ("b", b, &b.codes), ("a with the other text", a, &b.codes)] {
        let codes: Vec<u32> = seen.runs.iter().flat_map(|_| codes).copied().collect();
        other(&format!("{name}: correlation with codes"), correlation(field, &seen.runs.concat(), &codes).0);
    }
    all
}

/// Whether layers of both fields, the first of each, the second of each, ..., have masks of the same random words. An element of
/// the smaller field is made of the bits that are the low ones of one of the larger field.
fn between_fields(name: &str, [small, large]: &Text) -> Vec<Tested> {
    let (field, mut all) = (small.field, Vec::new());
    for (few, many) in small.runs.iter().zip(&large.runs) {
        let places = small.places().zip(large.places()).zip(small.calls.iter().zip(&large.calls));
        for ((few_at, many_at), ((_, _, narrow), (_, _, wide))) in places {
            let rows = few[few_at].chunks_exact(*narrow).zip(many[many_at].chunks_exact(*wide));
            all.extend(rows.flat_map(|(few, many)| few.iter().zip(many)).map(|(&a, &b)| b.wrapping_sub(a)));
        }
    }
    // Of 24 uniform bits a uniform element, as masks are made.
    let elements = all.into_iter().map(|x| x & field.mask()).filter(|&x| x < field.prime());
    chi_squared(&format!("{name} between fields"), Limbs::of(field, elements).uniform()).collect()
}

/// All tests of two texts.
fn tests([a, b]: &[Text; 2]) -> Vec<Tested> {
    let of_fields = a.iter().zip(b).flat_map(|(a, b)| battery(a, b));
    let all: Vec<_> = of_fields.chain(between_fields("a", a)).chain(between_fields("b", b)).collect();
    assert_eq!(all.len(), TESTS);
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
    fn run(&self, texts: [&[i32]; 2], lengths: &[u32], runs: usize, servers: usize) -> [[Text; 2]; 2] {
        let mut seen = [0, 1].map(|_| [0, 1].map(|_| Seen::nothing()));
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
                let codes = self.component.take_codes();
                let [alone, together] = &mut seen;
                for field in 0..Field::ALL.len() {
                    alone[text][field].note(&calls, &codes, |call| &call.share);
                    together[text][field].note(&calls, &codes, |call| &call.together);
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
    let (mut made, mut failed) = (0, Vec::new());
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
        for (view, texts) in [("alone", alone), ("all but one", together)].into_iter().take(servers - 1) {
            let all = tests(&texts);
            let (worst, p) = least(&all);
            println!(
                "{name}, {view}: {:?} elements of each text in {runs} runs, {} tests, least p {p:.3} ({worst}), {:.1} s",
                texts[0].each_ref().map(|seen| (seen.field, seen.runs.iter().map(Vec::len).sum::<usize>())),
                all.len(),
                start.elapsed().as_secs_f64()
            );
            made += all.len();
            failed.extend(all.into_iter().filter(|&(_, p)| p < REJECT));
        }
    }
    assert!(made + TESTS <= MOST_TESTS, "{made} tests");
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
        let [texts, _] = runner.run([&ids[0], &ids[1]], &lengths, 8, 2);
        texts
    };
    let rejecting = |all: Vec<Tested>| all.into_iter().filter(|&(_, p)| p < REJECT).map(|(name, _)| name);
    // As few runs of a sound one are accepted.
    let sound = tests(&run(Manner::Sound));
    assert!(sound.iter().all(|&(_, p)| p >= REJECT), "{:?}", least(&sound));
    for manner in BROKEN {
        let [a, b] = run(manner);
        for (a, b) in a.iter().zip(&b) {
            let all = battery(a, b);
            let (count, caught) = (all.len(), rejecting(all).collect::<Vec<_>>());
            let first = caught.first().unwrap_or_else(|| panic!("{manner:?} passes in {:?}", a.field));
            println!("{manner:?}: {} of {count} tests reject, the first is `{first}`", caught.len());
        }
    }
    // What no field shows by itself.
    let [a, b] = run(Manner::StreamOfTwo);
    for (name, text) in [("a", &a), ("b", &b)] {
        let caught: Vec<_> = rejecting(between_fields(name, text)).collect();
        assert!(!caught.is_empty(), "{name}: a stream of layers of both fields passes");
        println!("{:?}: {caught:?}", Manner::StreamOfTwo);
    }
}
