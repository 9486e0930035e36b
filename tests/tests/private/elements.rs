//! Numbers that are no elements of a layer's field: no server makes them pass for elements, whether they fit its bytes or not.

use ostrakon_exact::field::Field;
use ostrakon_exact::simd::{Product, ProductError};
use ostrakon_exact::{Activation, Layer};
use ostrakon_nn::{
    Backend, LayerSource, Masked, MemoryLayers, Servers, SharedBackend, SharedError, SharedLayer, Shares, Tensor, Wrong,
};
use ostrakon_tests::private::{Bench, Component, elements, fresh_seed, lock, packed, place, tensor};
use ostrakon_tests::tiny::Random;
use std::sync::{Arc, Mutex};

const ROWS: usize = 3;
const INPUTS: usize = 90;
const OUTPUTS: usize = 5;

/// What is said instead of an element.
type Saying = fn(Field, u32) -> u32;

/// The class is right where it can be, so that only the range is wrong.
const SAYINGS: [Saying; 5] = [
    |field, right| right + field.prime(),
    |field, _| field.prime(),
    // The largest number of as many bits, and the one after it.
    |field, _| field.mask(),
    |field, _| field.mask() + 1,
    |_, _| u32::MAX,
];

/// Servers that are honest but for one number.
struct Sayers {
    bench: Arc<Bench>,
    component: Arc<Component>,
    saying: Mutex<Option<(Saying, usize)>>,
    layers: Mutex<Vec<Arc<SharedLayer>>>,
}

impl Servers for Sayers {
    type Who = &'static str;

    fn register(&self, layer: &Arc<SharedLayer>) {
        lock(&self.layers).push(layer.clone());
    }

    fn masked(&self, layer: &Arc<SharedLayer>, rows: usize) -> Result<Masked, SharedError> {
        let mask = self.component.mask(&[fresh_seed()], place(layer, layer.stream(), rows));
        let product = self.bench.multiply(layer.name(), &mask);
        assert_eq!(layer.check(&*self.component, &mask, &product), Ok(None));
        // Nor is it believed of a mask.
        if let Some(said) = self.said(layer, &product) {
            assert!(layer.check(&*self.component, &mask, &said).is_err());
        }
        Ok(Masked { mask, products: vec![product] })
    }

    fn multiply(&self, layer: &Arc<SharedLayer>, share: &Tensor) -> Result<(Tensor, Self::Who), SharedError> {
        let right = self.bench.multiply(layer.name(), share);
        Ok((self.said(layer, &right).unwrap_or(right), "the server"))
    }

    fn wrong(&self, _: &Self::Who, wrong: &Wrong) {
        panic!("{wrong:?} was compared");
    }
}

impl Sayers {
    fn said(&self, layer: &SharedLayer, right: &Tensor) -> Option<Tensor> {
        let (saying, at) = (*lock(&self.saying))?;
        let mut said = elements(right).to_vec();
        let at = at % said.len();
        said[at] = saying(layer.field(), said[at]);
        assert!(said[at] >= layer.field().prime());
        Some(tensor(ROWS, layer.columns(), &said))
    }
}

/// The product of the shared backend, and of which codes.
type Shared = (Activation, Box<dyn Product>);

/// A layer of each field.
fn layers() -> (Arc<Sayers>, Vec<Shared>) {
    let mut random = Random(9);
    let mut source = MemoryLayers::new();
    let both = [("small", "u8", Activation::U8), ("large", "u16", Activation::U16)];
    for (name, activation, _) in both {
        let weights: Vec<i8> = (0..OUTPUTS * INPUTS).map(|_| random.one_of(&[-127, 127, 126, -1])).collect();
        source.insert_linear(name, activation, &weights, &[1.0; OUTPUTS], &[], &[]);
    }
    let source = Arc::new(source);
    let bench = Arc::new(Bench::new(source.clone()));
    let component = Component::start(&bench.executor, false);
    let (saying, layers) = Default::default();
    let servers = Arc::new(Sayers { bench: bench.clone(), component: component.clone(), saying, layers });
    let backend = SharedBackend::new(bench.executor.clone(), component as _, servers.clone());
    let product = |(name, activation, kind): (&str, &str, _)| {
        let Ok(Layer::Linear(layer)) = Layer::from_parts("linear", activation, source.raw(name).unwrap().parts) else {
            panic!("{name} is not linear");
        };
        (kind, backend.prepare(name, &Arc::new(layer)).unwrap())
    };
    let products = both.map(product).into();
    assert_eq!(lock(&servers.layers).iter().map(|layer| layer.field()).collect::<Vec<_>>(), Field::ALL);
    (servers, products)
}

fn multiply((activation, product): &Shared) -> (Result<(), ProductError>, Vec<i64>) {
    let mut totals = vec![0; ROWS * OUTPUTS];
    let done = match activation {
        Activation::U8 => {
            let mut narrow = vec![0; totals.len()];
            let done = product.product_u8(&[7; ROWS * INPUTS], ROWS, &mut narrow);
            totals = narrow.into_iter().map(i64::from).collect();
            done
        }
        Activation::U16 => product.product_u16(&[7; ROWS * INPUTS], ROWS, &mut totals),
    };
    (done, totals)
}

#[test]
fn what_is_no_element_is_refused() {
    let (servers, products) = layers();
    for layer in &products {
        for at in 0..20 {
            for saying in SAYINGS {
                *lock(&servers.saying) = Some((saying, at));
                let (done, totals) = multiply(layer);
                let refused = done.unwrap_err();
                assert!(matches!(refused, ProductError::Unavailable(_)), "{refused}");
                assert!(totals.iter().all(|&total| total == 0), "{totals:?}");
            }
        }
        *lock(&servers.saying) = None;
        let (done, totals) = multiply(layer);
        assert!(done.is_ok() && totals.iter().any(|&total| total != 0), "{done:?}");
    }
}

#[test]
fn what_comes_packed_is_unpacked_if_it_is_rows_of_elements() {
    let (servers, _) = layers();
    let random = &mut Random(10);
    for layer in lock(&servers.layers).iter() {
        let (field, width) = (layer.field(), layer.columns());
        let mut draw = |n| (0..n).map(|_| (random.next() % u64::from(field.prime())) as u32).collect::<Vec<_>>();
        let share = draw(ROWS * INPUTS);
        assert_eq!(layer.pack(&tensor(ROWS, INPUTS, &share)).unwrap(), packed(field, INPUTS, &share));
        assert!(layer.pack(&tensor(1, INPUTS + 1, &share[..=INPUTS])).is_err(), "no row of this layer");

        let product = draw(ROWS * width);
        let (row, whole) = (width * field.bytes(), packed(field, width, &product));
        let whole = whole.as_slice();
        let unpacked = |packed: &[u8]| layer.unpack(ROWS, packed).map(|tensor| elements(&tensor).to_vec());
        assert_eq!(unpacked(whole).unwrap(), product);
        // Too little, too much, and a size that rows have in the other field.
        let longer = [whole, &whole[..row]].concat();
        let other = product.len() * (7 - field.bytes());
        for size in [0, row, whole.len() - field.bytes(), whole.len() - 1, whole.len() + 1, longer.len(), other] {
            assert!(unpacked(&[&longer[..], &longer].concat()[..size]).is_err(), "{field:?}: {size} bytes");
        }
        assert!(layer.unpack(ROWS + 1, whole).is_err() && layer.unpack(ROWS - 1, whole).is_err());
        // All that its bytes hold and the field does not, or some of it; and the largest that it does.
        let most = u32::MAX >> (32 - 8 * field.bytes());
        let beyond = (field.prime()..=most).step_by((most - field.prime()) as usize / 3 + 1).chain([most, most - 1]);
        for at in [0, 1, width, product.len() - 1] {
            let with = |number: u32| {
                let mut product = product.clone();
                product[at] = number;
                (unpacked(&packed(field, width, &product)), product)
            };
            for number in beyond.clone() {
                assert!(with(number).0.is_err(), "{number} is no element of {field:?}");
            }
            let (unpacked, product) = with(field.prime() - 1);
            assert_eq!(unpacked.unwrap(), product);
        }
    }
}

#[test]
fn the_component_takes_elements_of_the_layers_field_alone() {
    let (servers, _) = layers();
    let component = Component::start(&servers.bench.executor, true);
    for field in Field::ALL {
        let good = tensor(2, 3, &[0, 1, 2, field.prime() - 1, 0, 7]);
        let mask = tensor(2, 3, &[1, field.prime() - 1, 0, 0, field.prime() - 1, 8]);
        let p = u64::from(field.prime());
        let of = |f: fn(u64, u64, u64) -> u64| -> Vec<u32> {
            let both = elements(&good).iter().zip(elements(&mask));
            both.map(|(&a, &b)| (f(p, a.into(), b.into()) % p) as u32).collect()
        };
        assert_eq!(elements(&component.split(field, &good, &mask).unwrap()), of(|p, a, b| a + p - b));
        assert_eq!(elements(&component.combine(field, &[&good, &mask]).unwrap()), of(|_, a, b| a + b));
        let vectors = tensor(2, 3, &[3; 6]);
        assert_eq!(component.check(field, &good, &good, &vectors, &vectors).unwrap(), None);
        for number in [p as u32, field.mask(), field.mask() + 1, u32::MAX] {
            let bad = tensor(2, 3, &[0, 0, 0, 0, 0, number]);
            assert!(component.split(field, &bad, &mask).is_err() && component.split(field, &good, &bad).is_err());
            assert!(component.combine(field, &[&bad, &mask]).is_err());
            assert!(component.combine(field, &[&good, &bad]).is_err());
            for at in 0..4 {
                let [x, y, r, v] = [0, 1, 2, 3].map(|i| if i == at { &bad } else { [&good, &vectors][i / 2] });
                assert!(component.check(field, x, y, r, v).is_err(), "{field:?}: {number} as argument {at}");
            }
        }
    }
}
