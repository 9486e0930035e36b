//! A hundred thousand lies of servers in each field: each is caught before its value is used, and the liar is named with layer and row.
//!
//! # How
//!
//! 1. A trial is one product of the shared backend, with the real component, on a layer of the tiny model, of MiniLM or of one that is
//!    cut into parts, with two to four servers. Liars know weights, shares and which of their lies were caught.
//! 2. Nothing that was not found right is ever combined (`Component` sees to that), and no vectors are used that a wrong answer
//!    has met.
//! 3. The totals are those of the reference, or there is an error; and those who are named are exactly those who lied, each with the
//!    first row that is wrong.
//!
//! A wrong row passes with a probability of p^-2: less than 2^-47 in the smaller field, than 2^-61 in the larger one. All lies of
//! this file together: less than once in 10^9 times.

use ostrakon_exact::field::{Field, Parts};
use ostrakon_exact::reference::accumulate;
use ostrakon_exact::simd::{Product, ProductError};
use ostrakon_exact::{Activation, Layer, Linear};
use ostrakon_nn::{
    Backend, LayerSource, Masked, MemoryLayers, Servers, SharedBackend, SharedError, SharedLayer, Tensor, Wrong,
};
use ostrakon_tests::native::NativeBert;
use ostrakon_tests::packed::minilm;
use ostrakon_tests::private::{Bench, Component, elements, lock, opened, place, tensor};
use ostrakon_tests::tiny::{MAX_TOKENS, Random, Tiny, WORDS};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How many wrong answers to one product a backend takes.
const WRONG: usize = 8;
/// Caught lies that a liar remembers.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lie {
    /// An element is one more or one less.
    ByOne,
    /// An element is another one.
    Any,
    /// An element is that of another row.
    OfAnotherRow,
    /// Elements change so that their sum does not.
    SumZero,
    RowsSwapped,
    /// The answer to another share.
    Older,
    /// Near lies that were caught, or between them.
    Near,
    /// The right answer to a share that differs in one element: the weights are known.
    Neighbour,
    /// A row times a number.
    Scaled,
    Zeros,
    /// A server with a seed lies about its mask.
    Masks,
    /// The server without a seed and one with a seed lie so that it cancels in the sum.
    Together,
    /// Two servers with seeds lie so that it cancels in the sum.
    MasksTogether,
    /// Lies at every try.
    Always,
}

const ALL: [Lie; 14] = [
    Lie::ByOne,
    Lie::Any,
    Lie::OfAnotherRow,
    Lie::SumZero,
    Lie::RowsSwapped,
    Lie::Older,
    Lie::Near,
    Lie::Neighbour,
    Lie::Scaled,
    Lie::Zeros,
    Lie::Masks,
    Lie::Together,
    Lie::MasksTogether,
    Lie::Always,
];

/// What can be said by a server that sees only its own work.
const ALONE: usize = 10;

/// Who was wrong and how.
type Named = (usize, Wrong);

struct Liars {
    bench: Arc<Bench>,
    component: Arc<Component>,
    state: Mutex<State>,
}

struct State {
    random: Random,
    seeded: usize,
    /// What the server without a seed says in its next answers.
    online: VecDeque<Lie>,
    /// What servers with seeds add to the next product of their masks: server, place, number.
    masks: Vec<(usize, usize, u32)>,
    /// What is added online, so that it cancels.
    against: Option<(usize, u32)>,
    /// Of how many answers one is a lie, beside those that are ordered.
    one_in: Option<usize>,
    older: BTreeMap<(String, usize), Vec<u32>>,
    /// Places and numbers of lies that were caught.
    caught: HashMap<Field, VecDeque<(usize, u32)>>,
    lied: Vec<Named>,
    named: Vec<Named>,
}

fn modulo(field: Field, x: u64) -> u32 {
    (x % u64::from(field.prime())) as u32
}

fn add(field: Field, at: &mut u32, number: u32) {
    *at = modulo(field, u64::from(*at) + u64::from(number));
}

const fn minus(field: Field, x: u32) -> u32 {
    if x == 0 { 0 } else { field.prime() - x }
}

impl State {
    /// Any element but 0.
    fn number(&mut self, field: Field) -> u32 {
        1 + (self.random.next() % u64::from(field.prime() - 1)) as u32
    }

    fn one(&mut self, field: Field) -> u32 {
        self.random.one_of(&[1, field.prime() - 1])
    }

    /// One of the lies that were caught in this field.
    fn remembered(&mut self, field: Field) -> Option<(usize, u32)> {
        let caught = self.caught.get(&field).filter(|caught| !caught.is_empty())?;
        Some(caught[self.random.below(caught.len())])
    }

    /// Put a lie in the place of the right answer.
    fn lie(
        &mut self,
        lie: Lie,
        right: &[u32],
        layer: &SharedLayer,
        rows: usize,
        neighbour: impl FnOnce(usize, u32) -> Vec<u32>,
    ) -> Vec<u32> {
        let (field, width) = (layer.field(), layer.columns());
        let mut said = right.to_vec();
        let at = self.random.below(said.len());
        let row = at / width * width;
        let other_row = (row + width * (1 + self.random.below(rows.max(2) - 1))) % said.len();
        match lie {
            Lie::ByOne => add(field, &mut said[at], self.one(field)),
            Lie::Any => add(field, &mut said[at], self.number(field)),
            Lie::OfAnotherRow => said[at] = right[other_row + at % width],
            Lie::SumZero => {
                // In this row, or over rows in this column.
                let other =
                    if self.random.below(2) == 0 { row + self.random.below(width) } else { other_row + at % width };
                let number = self.number(field);
                add(field, &mut said[at], number);
                add(field, &mut said[other], minus(field, number));
            }
            Lie::RowsSwapped => {
                for i in 0..width {
                    said.swap(row + i, other_row + i);
                }
            }
            Lie::Older => said = self.older.get(&(layer.name().to_owned(), rows)).cloned().unwrap_or(said),
            Lie::Near | Lie::Always => {
                if let (Some((place, number)), Some((_, other))) = (self.remembered(field), self.remembered(field)) {
                    let near = self.random.below(6);
                    let place = if near == 4 { place + 1 } else { place } % said.len();
                    let number = match near {
                        0 => modulo(field, u64::from(number) + 1),
                        1 => modulo(field, u64::from(number) + u64::from(field.prime()) - 1),
                        2 => modulo(field, 2 * u64::from(number)),
                        3 => minus(field, number),
                        4 => number,
                        _ => modulo(field, u64::from(number) + u64::from(minus(field, other))),
                    };
                    add(field, &mut said[place], number);
                }
            }
            Lie::Neighbour => said = neighbour(at / width, self.number(field)),
            Lie::Scaled => {
                let by = u64::from(self.number(field));
                said[row..row + width].iter_mut().for_each(|x| *x = modulo(field, u64::from(*x) * by));
            }
            Lie::Zeros => said[row..row + width].fill(0),
            _ => {}
        }
        if let Some((at, number)) = self.against.take() {
            add(field, &mut said[at], number);
        }
        if said == right {
            add(field, &mut said[at], 1);
        }
        said
    }

    /// Note what a lie was.
    fn note(&mut self, who: usize, layer: &SharedLayer, right: &[u32], said: &[u32]) {
        let at = right.iter().zip(said).position(|(right, said)| right != said).unwrap();
        let (field, row) = (layer.field(), (at / layer.columns()) as u32);
        self.lied.push((who, Wrong { layer: layer.name().to_owned(), row }));
        let caught = self.caught.entry(field).or_default();
        if caught.len() == REMEMBERED {
            caught.pop_front();
        }
        // It will be: a test that goes on has caught all.
        caught.push_back((at, modulo(field, u64::from(said[at]) + u64::from(minus(field, right[at])))));
    }
}

impl Liars {
    fn new(bench: &Arc<Bench>, component: &Arc<Component>, seed: u64) -> Arc<Self> {
        let state = State {
            random: Random(seed),
            seeded: 1,
            online: VecDeque::new(),
            masks: Vec::new(),
            against: None,
            one_in: None,
            older: BTreeMap::new(),
            caught: HashMap::new(),
            lied: Vec::new(),
            named: Vec::new(),
        };
        Arc::new(Self { bench: bench.clone(), component: component.clone(), state: Mutex::new(state) })
    }

    /// A product of one server's mask that was found right, as the real client asks for it: whoever lies is replaced.
    fn masked_by(&self, state: &mut State, server: usize, layer: &Arc<SharedLayer>, rows: usize) -> ([u8; 32], Tensor) {
        loop {
            let mut seed = [0; 32];
            seed.as_chunks_mut::<8>().0.iter_mut().for_each(|eight| *eight = state.random.next().to_le_bytes());
            let mask = self.component.mask(&[seed], place(layer, layer.stream(), rows));
            let right = self.bench.multiply(layer.name(), &mask);
            let mut said = elements(&right).to_vec();
            let lie = state.masks.iter().position(|&(liar, ..)| liar == server);
            if let Some((_, at, number)) = lie.map(|lie| state.masks.remove(lie)) {
                let at = at % said.len();
                add(layer.field(), &mut said[at], number);
                state.note(server, layer, elements(&right), &said);
            }
            let said = tensor(rows, layer.columns(), &said);
            match layer.check(&*self.component, &mask, &said).unwrap() {
                None => return (seed, said),
                Some(row) => state.named.push((server, Wrong { layer: layer.name().to_owned(), row })),
            }
        }
    }
}

impl Servers for Liars {
    type Who = usize;

    fn register(&self, _: &Arc<SharedLayer>) {}

    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError> {
        let mut state = lock(&self.state);
        let (mut seeds, mut products) = (Vec::new(), Vec::new());
        for server in 1..=state.seeded {
            let (seed, product) = self.masked_by(&mut state, server, layer, rows);
            seeds.push(seed);
            products.push(product);
        }
        Ok(Masked { mask: self.component.mask(&seeds, place(layer, layer.stream(), rows)), products })
    }

    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, usize), SharedError> {
        let right = self.bench.multiply(layer.name(), share);
        let (rows, mut state) = (share.dims()[0] as usize, lock(&self.state));
        let by_chance = state.one_in.is_some_and(|n| state.random.below(n) == 0);
        let lie = state.online.pop_front().or_else(|| by_chance.then(|| state.random.one_of(&ALL[..ALONE])));
        let said = match lie {
            None => right.clone(),
            Some(lie) => {
                let neighbour = |row: usize, number: u32| {
                    let mut other = elements(share).to_vec();
                    add(layer.field(), &mut other[row * layer.inputs() + number as usize % layer.inputs()], number);
                    elements(&self.bench.multiply(layer.name(), &tensor(rows, layer.inputs(), &other))).to_vec()
                };
                let said = state.lie(lie, elements(&right), layer, rows, neighbour);
                state.note(0, layer, elements(&right), &said);
                tensor(rows, layer.columns(), &said)
            }
        };
        state.older.insert((layer.name().to_owned(), rows), elements(&right).to_vec());
        Ok((said, 0))
    }

    fn wrong(&self, who: &usize, wrong: &Wrong) {
        lock(&self.state).named.push((*who, wrong.clone()));
    }
}

/// A layer with the product of the shared backend.
struct Tried {
    layer: Arc<Linear>,
    field: Field,
    product: Box<dyn Product>,
}

impl Tried {
    fn new(backend: &SharedBackend<Liars>, source: &dyn LayerSource, name: &str) -> Self {
        let raw = source.raw(name).unwrap();
        let Layer::Linear(layer) = Layer::from_parts(&raw.kind, &raw.activation, raw.parts).unwrap() else {
            panic!("{name} is not linear");
        };
        let layer = Arc::new(layer);
        Self { product: backend.prepare(name, &layer).unwrap(), field: Parts::of(&layer).field(), layer }
    }

    /// Random codes, and what the backend says of them; whether that is right.
    fn run(&self, random: &mut Random, rows: usize) -> Result<bool, ProductError> {
        let layer = &self.layer;
        // Sometimes as different from random as can be.
        let flat = random.below(4) == 0;
        let code = random.next() as u16;
        let mut codes: Vec<u16> =
            (0..rows * layer.inputs).map(|_| if flat { code } else { random.next() as u16 }).collect();
        let totals: Vec<i64> = match layer.activation {
            Activation::U8 => {
                codes.iter_mut().for_each(|code| *code &= 0xff);
                let narrow: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
                let mut totals = vec![0; rows * layer.outputs];
                self.product.product_u8(&narrow, rows, &mut totals)?;
                totals.into_iter().map(i64::from).collect()
            }
            Activation::U16 => {
                let mut totals = vec![0; rows * layer.outputs];
                self.product.product_u16(&codes, rows, &mut totals)?;
                totals
            }
        };
        let rows = codes.chunks_exact(layer.inputs);
        let right =
            rows.flat_map(|row| layer.weight.as_slice().chunks_exact(layer.inputs).map(move |w| accumulate(row, w)));
        Ok(right.eq(totals))
    }
}

/// A layer of 700 columns whose totals do not fit the larger field, and one of u8 codes, which fits the smaller one.
fn deep() -> MemoryLayers {
    let mut random = Random(9);
    let mut weights = |n: usize| (0..n).map(|_| random.one_of(&[-127i8, 127, 126, -1])).collect::<Vec<_>>();
    let mut layers = MemoryLayers::new();
    layers.insert_linear("deep.wide", "u16", &weights(5 * 700), &[1.0; 5], &[], &[]);
    layers.insert_linear("deep.narrow", "u8", &weights(3 * 90), &[1.0; 3], &[], &[]);
    layers
}

/// Trials of each kind in each field.
type Counts = HashMap<Field, BTreeMap<Lie, usize>>;

/// So many trials on these layers; how many of each kind, and how many lies.
fn trials(source: Arc<dyn LayerSource>, names: &[String], count: usize, seed: u64) -> (Counts, usize) {
    let bench = Arc::new(Bench::new(source.clone()));
    let component = Component::start(&bench.executor, false);
    let liars = Liars::new(&bench, &component, seed);
    let backend = SharedBackend::new(bench.executor.clone(), component.clone() as _, liars.clone());
    let layers: Vec<Tried> = names.iter().map(|name| Tried::new(&backend, &*source, name)).collect();
    let mut random = Random(seed + 1);
    let (mut counts, mut lies) = (Counts::new(), 0);
    for trial in 0..count {
        let lie = ALL[trial % ALL.len()];
        let layer = &layers[random.below(layers.len())];
        let field = layer.field;
        // Several rows where it takes two.
        let rows = 2 + random.below(4)
            - usize::from(!matches!(lie, Lie::OfAnotherRow | Lie::RowsSwapped) && random.below(3) == 0);
        {
            let mut state = lock(&liars.state);
            state.seeded = 1 + random.below(3);
            let (at, number) = (random.below(rows * layer.layer.outputs), state.number(field));
            let seeded = state.seeded;
            match lie {
                Lie::Masks => state.masks.push((1 + random.below(seeded), at, number)),
                Lie::Together => {
                    state.masks.push((1 + random.below(seeded), at, number));
                    state.against = Some((at, minus(field, number)));
                    state.online.push_back(lie);
                }
                Lie::MasksTogether => {
                    state.seeded = seeded.max(2);
                    state.masks.extend([(1, at, number), (2, at, minus(field, number))]);
                }
                Lie::Always => state.online.extend([lie; WRONG]),
                _ => state.online.push_back(lie),
            }
        }
        let result = layer.run(&mut random, rows);
        let mut state = lock(&liars.state);
        assert!(state.online.is_empty() && state.masks.is_empty() && state.against.is_none(), "{lie:?} was not tried");
        assert_eq!(state.named, state.lied, "trial {trial}, {lie:?}");
        assert!(!state.lied.is_empty());
        match (lie, result) {
            (Lie::Always, Err(ProductError::Unavailable(_))) => assert_eq!(state.lied.len(), WRONG),
            (_, Ok(true)) if lie != Lie::Always => {}
            (_, result) => panic!("trial {trial}: {lie:?} gives {result:?}"),
        }
        lies += state.lied.len();
        (state.named, state.lied) = Default::default();
        *counts.entry(field).or_default().entry(lie).or_insert(0) += 1;
        component.forget();
    }
    (counts, lies)
}

/// A name, where layers come from, which, and how many trials.
type Case = (&'static str, Arc<dyn LayerSource>, Vec<String>, usize);

/// The linear layers of a package.
fn linear_layers(package: &ostrakon_package::Package) -> Vec<String> {
    let encoders = package.manifest().blocks.iter().filter(|block| block.setting("kind") == Some("encoder"));
    let names = ["attention.qkv", "attention.output", "feed-forward.up", "feed-forward.down"];
    encoders.flat_map(|block| names.map(|name| format!("{}.{name}", block.name))).collect()
}

#[test]
fn every_lie_is_caught_and_the_liar_is_named() {
    let tiny = Tiny::new();
    let tiny_package = opened(&tiny.honest(1));
    let minilm = opened(&minilm(1));
    let mut all = Counts::new();
    let (mut trials_made, mut lies_told) = (0, 0);
    let deep_names = ["deep.wide".to_owned(), "deep.narrow".to_owned()];
    let cases: [Case; 3] = [
        ("tiny", tiny_package.clone(), linear_layers(&tiny_package), 185_000),
        ("in parts", Arc::new(deep()), deep_names.to_vec(), 20_000),
        ("MiniLM", minilm.clone(), linear_layers(&minilm), 4000),
    ];
    for (seed, (name, source, names, count)) in cases.into_iter().enumerate() {
        let start = Instant::now();
        let (counts, lies) = trials(source, &names, count, 100 + 10 * seed as u64);
        println!(
            "{name}: {count} trials on {} layers, {lies} lies, all caught and named, {:.1} s",
            names.len(),
            start.elapsed().as_secs_f64()
        );
        trials_made += count;
        lies_told += lies;
        for (field, kinds) in counts {
            let all = all.entry(field).or_default();
            kinds.into_iter().for_each(|(lie, count)| *all.entry(lie).or_default() += count);
        }
    }
    println!("{trials_made} trials, {lies_told} lies: {all:?}");
    for field in Field::ALL {
        let lies = &all[&field];
        assert!(lies.values().sum::<usize>() >= 100_000 && lies.len() == ALL.len(), "{field:?}: {lies:?}");
    }
}

#[test]
fn a_layer_in_parts_is_one() {
    let bench = Bench::new(Arc::new(deep()));
    let product = bench.host.share_product("deep.wide").unwrap();
    assert!(product.field() == Field::P31 && product.columns() >= 10, "{product:?}");
    let product = bench.host.share_product("deep.narrow").unwrap();
    assert!(product.field() == Field::P24 && product.columns() == 3, "{product:?}");
}

#[test]
fn models_give_their_bytes_among_liars() {
    let tiny = Tiny::new();
    let package = opened(&tiny.honest(1));
    let bench = Arc::new(Bench::new(package.clone()));
    let component = Component::start(&bench.executor, false);
    let liars = Liars::new(&bench, &component, 31);
    let shared = Arc::new(bench.shared(component.clone(), liars.clone()));
    let plain = NativeBert::open(Arc::new(Bench::new(package.clone()).host), package.manifest()).unwrap();
    let private = NativeBert::open(shared, package.manifest()).unwrap();
    let mut random = Random(32);
    let mut lies = 0;
    for run in 0..200 {
        {
            let mut state = lock(&liars.state);
            state.one_in = Some(4);
            state.seeded = 1 + run % 3;
        }
        let texts = 1 + random.below(3);
        let ids: Vec<i32> = (0..texts * MAX_TOKENS).map(|_| random.below(WORDS + 1) as i32).collect();
        let tokens = |ids: Vec<i32>| Tensor::from_i32(vec![ids.len() as u32], ids).unwrap();
        let lengths = tokens(vec![MAX_TOKENS as i32; texts]);
        let [a, b] = [&plain, &private].map(|model| model.forward(tokens(ids.clone()), &lengths).unwrap());
        assert_eq!(a.bytes(), b.bytes());
        let mut state = lock(&liars.state);
        assert_eq!(state.named, state.lied);
        lies += state.lied.len();
        (state.named, state.lied) = Default::default();
        component.forget();
    }
    println!("200 runs of the tiny model, {lies} lies");
    assert!(lies > 400);
}
