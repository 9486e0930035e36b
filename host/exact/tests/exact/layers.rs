//! Layers are built from parts that may come from anyone: whatever they hold, building one gives a layer
//! that every operation can use, or an error; never a panic.

use ostrakon_exact::layer::{MAX_ROWS, MAX_WIDTH};
use ostrakon_exact::reference;
use ostrakon_exact::{Layer, Part};
use proptest::prelude::*;

fn part(name: &str, dimensions: &[usize], data: Vec<u8>) -> Part {
    Part { name: name.to_owned(), dimensions: dimensions.to_vec(), data: Box::new(data) }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("weight".to_owned()),
        Just("scale".to_owned()),
        Just("bias".to_owned()),
        Just("prescale".to_owned()),
        Just("gain".to_owned()),
        Just("epsilon".to_owned()),
        Just("table".to_owned()),
        Just("heads".to_owned()),
        ".{0,4}",
    ]
}

fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0usize..5, 1 => Just(usize::MAX), 1 => Just(MAX_WIDTH + 1), 1 => Just(1usize << 33), 1 => Just(MAX_ROWS)]
}

fn float() -> impl Strategy<Value = f32> {
    prop_oneof![6 => -2.0f32..2.0, 1 => any::<u32>().prop_map(f32::from_bits), 1 => Just(f32::NAN), 1 => Just(1e30f32)]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::collection::vec(float(), 0..5).prop_map(|values| floats(&values)),
    ]
}

/// Parts that nearly fit: the right names, mostly the right sizes.
fn likely() -> impl Strategy<Value = (String, Vec<Part>)> {
    let shape = (1usize..4, 1usize..4);
    let kind = prop_oneof![Just("linear"), Just("embedding"), Just("layer-norm"), Just("rms-norm"), Just("rotary")];
    (shape, kind).prop_flat_map(|((n, k), kind)| {
        let codes = prop::collection::vec(any::<u8>(), n * k..=n * k);
        let values = |len: usize| prop::collection::vec(float(), len..=len);
        (codes, values(n), values(n), values(k), values(1), values(2 * n * k), 0u8..4, any::<[bool; 8]>()).prop_map(
            move |(codes, scale, bias, prescale, epsilon, table, heads, keep)| {
                let all = [
                    part("weight", &[n, k], codes),
                    part("scale", &[n], floats(&scale)),
                    part("bias", &[n], floats(&bias)),
                    part("prescale", &[k], floats(&prescale)),
                    part("gain", &[n], floats(&scale)),
                    part("epsilon", &[1], floats(&epsilon)),
                    part("table", &[n, 2 * k], floats(&table)),
                    part("heads", &[1], floats(&[f32::from(heads)])),
                ];
                let parts = all.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(part, _)| part).collect();
                (kind.to_owned(), parts)
            },
        )
    })
}

fn anything() -> impl Strategy<Value = (String, Vec<Part>)> {
    let kind = prop_oneof![
        Just("linear".to_owned()),
        Just("embedding".to_owned()),
        Just("layer-norm".to_owned()),
        Just("rms-norm".to_owned()),
        Just("rotary".to_owned()),
        ".{0,3}"
    ];
    let one = (name(), prop::collection::vec(dimension(), 0..4), data()).prop_map(|(name, dimensions, data)| Part {
        name,
        dimensions,
        data: Box::new(data),
    });
    (kind, prop::collection::vec(one, 0..6))
}

fn run(layer: &Layer) {
    let awkward = |n: usize| -> Vec<f32> {
        [f32::NAN, f32::INFINITY, -1e38, 1.0, -0.0, 1e-45].into_iter().cycle().take(n).collect()
    };
    let mut out;
    match layer {
        Layer::Linear(l) => {
            out = vec![f32::NAN; 2 * l.outputs];
            reference::linear(l, &awkward(2 * l.inputs), 2, &mut out).unwrap();
        }
        Layer::Embedding(l) => {
            out = vec![f32::NAN; l.width];
            reference::embedding(l, &[l.rows as i32 - 1], &mut out).unwrap();
        }
        Layer::LayerNorm(l) => {
            out = vec![f32::NAN; 2 * l.gain.len()];
            reference::layer_norm(l, &awkward(out.len()), None, 2, &mut out).unwrap();
        }
        Layer::RmsNorm(l) => {
            out = vec![f32::NAN; 2 * l.gain.len()];
            reference::rms_norm(l, &awkward(out.len()), 2, &mut out).unwrap();
        }
        Layer::Rotary(l) => {
            let columns = l.heads * l.width + 1;
            out = vec![f32::NAN; 2 * columns];
            reference::rotary(l, &awkward(out.len()), &[0, l.positions as i32 - 1], columns, &mut out).unwrap();
        }
    }
    assert!(out.iter().all(|y| y.is_finite()), "{out:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_parts_are_refused_or_usable((kind, parts) in prop_oneof![likely(), anything()], activation in prop_oneof![Just("u8"), Just("u16"), Just("u32")]) {
        if let Ok(layer) = Layer::from_parts(&kind, activation, parts) {
            run(&layer);
        }
    }
}

fn refusal(kind: &str, activation: &str, parts: Vec<Part>) -> String {
    match Layer::from_parts(kind, activation, parts) {
        Ok(layer) => panic!("a {} layer was built", layer.kind()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let weight = || part("weight", &[2, 2], vec![1, 2, 3, 4]);
    let scale = || part("scale", &[2], floats(&[1.0, 1.0]));
    assert!(Layer::from_parts("linear", "u8", vec![weight(), scale()]).is_ok());
    for (expected, kind, activation, parts) in [
        ("unknown layer kind", "conv", "u8", vec![]),
        ("unknown activation", "linear", "i4", vec![weight(), scale()]),
        ("`weight` is missing", "linear", "u8", vec![scale()]),
        ("`scale` is missing", "linear", "u8", vec![weight()]),
        ("repeated", "linear", "u8", vec![weight(), scale(), scale()]),
        ("repeated or unknown", "linear", "u8", vec![weight(), scale(), part("gain", &[1], vec![0; 4])]),
        ("-128", "linear", "u8", vec![part("weight", &[2, 2], vec![1, 128, 3, 4]), scale()]),
        ("has 3 bytes", "linear", "u8", vec![part("weight", &[2, 2], vec![1, 2, 3]), scale()]),
        ("shape", "linear", "u8", vec![part("weight", &[0, 2], vec![]), scale()]),
        ("shape", "linear", "u8", vec![part("weight", &[1 << 40, 1 << 40], vec![]), scale()]),
        ("shape", "linear", "u8", vec![part("weight", &[1, MAX_WIDTH + 1], vec![0; MAX_WIDTH + 1]), scale()]),
        ("NaN", "linear", "u8", vec![weight(), part("scale", &[2], floats(&[1.0, f32::NAN]))]),
        ("inf", "linear", "u8", vec![weight(), part("scale", &[2], floats(&[1.0, f32::INFINITY]))]),
        (
            "epsilon",
            "layer-norm",
            "",
            vec![
                part("gain", &[1], floats(&[1.0])),
                part("bias", &[1], floats(&[1.0])),
                part("epsilon", &[1], floats(&[0.0])),
            ],
        ),
        ("`epsilon` is missing", "rms-norm", "", vec![part("gain", &[1], floats(&[1.0]))]),
        (
            "repeated or unknown",
            "rms-norm",
            "",
            vec![
                part("gain", &[1], floats(&[1.0])),
                part("bias", &[1], floats(&[1.0])),
                part("epsilon", &[1], floats(&[1e-5])),
            ],
        ),
        ("an even number", "rotary", "", vec![part("table", &[1, 3], floats(&[1.0; 3]))]),
        ("an even number", "rotary", "", vec![part("table", &[3], floats(&[1.0; 3]))]),
        ("`heads` is missing", "rotary", "", vec![part("table", &[1, 2], floats(&[1.0; 2]))]),
        (
            "`heads` is 1.5",
            "rotary",
            "",
            vec![part("table", &[1, 2], floats(&[1.0; 2])), part("heads", &[1], floats(&[1.5]))],
        ),
        (
            "`heads` is -1",
            "rotary",
            "",
            vec![part("table", &[1, 2], floats(&[1.0; 2])), part("heads", &[1], floats(&[-1.0]))],
        ),
    ] {
        let text = refusal(kind, activation, parts);
        assert!(text.contains(expected), "`{text}` does not say `{expected}`");
    }
}
