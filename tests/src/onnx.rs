//! Small ONNX graphs, written by hand: messages of protocol buffers, field by field.

/// The number of an element type in ONNX: FLOAT.
pub const FLOAT: u8 = 1;

/// A field that holds bytes.
pub fn field(number: u8, inside: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3) | 2];
    let mut length = inside.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(inside);
    bytes
}

/// A field that holds a number below 128.
pub fn small(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// A node: an operation with its inputs and its output.
pub fn node(operation: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = inputs.iter().flat_map(|input| field(1, input.as_bytes())).collect();
    bytes.extend(field(2, output.as_bytes()));
    bytes.extend(field(4, operation.as_bytes()));
    bytes
}

/// An input or an output. A dimension of `None` is open.
pub fn port(name: &str, element: u8, shape: &[Option<u8>]) -> Vec<u8> {
    let size = |size: &Option<u8>| field(1, &size.map_or_else(|| field(2, b"n"), |size| small(1, size)));
    let shape: Vec<u8> = shape.iter().flat_map(size).collect();
    let tensor = [small(1, element), field(2, &shape)].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

/// A tensor of one dimension that the graph brings along: FLOAT.
pub fn constant(name: &str, values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [small(1, values.len() as u8), small(2, FLOAT), field(8, name.as_bytes()), field(9, &data)].concat()
}

/// A model.
pub fn model(nodes: &[Vec<u8>], constants: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Vec<u8> {
    let all = |number, parts: &[Vec<u8>]| parts.iter().flat_map(|part| field(number, part)).collect::<Vec<u8>>();
    let graph = [all(1, nodes), field(2, b"g"), all(5, constants), all(11, inputs), all(12, outputs)].concat();
    [small(1, 8), field(7, &graph), field(8, &[field(1, b""), small(2, 17)].concat())].concat()
}

/// `output = operation(input, input)` on FLOAT rows of two.
pub fn twice(operation: &str, input: &str, output: &str) -> Vec<u8> {
    let shape = [None, Some(2)];
    let (from, to) = (port(input, FLOAT, &shape), port(output, FLOAT, &shape));
    model(&[node(operation, &[input, input], output)], &[], &[from], &[to])
}
