//! A look at ONNX before OpenVINO reads it.
//!
//! Some operations read or write at places that a tensor names, and OpenVINO does not look whether those lie inside
//! ([`UNCHECKED`]): whoever gives the inputs would reach this process's memory. Graphs with them are refused.
//!
//! ONNX may keep the weights of a tensor in another file, by path: a graph of a stranger's could name any file of
//! this machine. So the messages that can hold tensors are walked, and a tensor that is elsewhere is refused. What
//! is not well-formed protocol buffers is refused on the way.

/// Deepest nesting of graphs in attributes of nodes, counted in messages.
const MAX_DEPTH: usize = 64;

/// Operations whose indices OpenVINO 2026.4 does not check: given others than the tensor has, they read and write outside of it.
const UNCHECKED: [&str; 4] = ["GatherND", "Scatter", "ScatterElements", "ScatterND"];

/// The messages that can hold tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl Message {
    /// What the field of this number holds, if it can hold tensors.
    const fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            _ => return None,
        })
    }
}

/// Check a whole file.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut has_graph = false;
    let mut first = true;
    for field in Fields(bytes) {
        let (number, value) = field?;
        // Other formats that OpenVINO reads do not begin with the number of a version.
        if std::mem::take(&mut first) && !(number == 1 && matches!(value, Value::Number(_))) {
            return Err("this is not ONNX: it does not begin with the version of its format".to_owned());
        }
        has_graph |= number == 7;
    }
    if !has_graph {
        return Err("this is not ONNX: there is no graph in it".to_owned());
    }
    walk(Message::Model, bytes, 0)
}

fn walk(message: Message, bytes: &[u8], depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("the ONNX graph nests deeper than {MAX_DEPTH} messages"));
    }
    for field in Fields(bytes) {
        let (number, value) = field?;
        if message == Message::Tensor && (number == 13 || (number == 14 && !matches!(value, Value::Number(0)))) {
            return Err("the ONNX graph keeps tensors in other files: save it as one file (onnx.save with \
                 save_as_external_data=False)"
                .to_owned());
        }
        if let (Message::Node, 4, Value::Bytes(kind)) = (message, number, &value)
            && let Some(kind) = UNCHECKED.into_iter().find(|unchecked| unchecked.as_bytes() == *kind)
        {
            return Err(format!(
                "the ONNX graph has the operation {kind}, which can reach memory outside of its tensors here: \
                 export the model without it"
            ));
        }
        if let (Some(inner), Value::Bytes(inside)) = (message.field(number), value) {
            walk(inner, inside, depth + 1)?;
        }
    }
    Ok(())
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a message, up to the first that is malformed.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "this is not ONNX: it is cut off or damaged".to_owned()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, value)).filter(|(number, _)| *number > 0)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with bytes in it.
    fn field(number: u8, inside: &[u8]) -> Vec<u8> {
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

    fn model(graph: &[u8]) -> Vec<u8> {
        [vec![8, 7], field(7, graph)].concat()
    }

    #[test]
    fn tensors_in_other_files_are_refused_wherever_they_are() {
        // data_location = EXTERNAL, and external_data without it.
        for tensor in [vec![14 << 3, 1], field(13, b"x")] {
            let attribute = field(5, &tensor);
            let deep = field(1, &field(5, &field(6, &field(1, &field(5, &attribute)))));
            for graph in [field(5, &tensor), field(1, &field(5, &attribute)), field(15, &field(1, &tensor)), deep] {
                assert!(check(&model(&graph)).unwrap_err().contains("other files"));
            }
        }
        assert_eq!(check(&model(&field(5, &[14 << 3, 0]))), Ok(()));
    }

    #[test]
    fn operations_that_reach_outside_are_refused_wherever_they_are() {
        for kind in UNCHECKED {
            let node = field(1, &field(4, kind.as_bytes()));
            let inside = field(1, &field(5, &field(6, &node)));
            for graph in [node, inside] {
                assert!(check(&model(&graph)).unwrap_err().contains(kind));
            }
        }
        assert_eq!(check(&model(&field(1, &field(4, b"Gather")))), Ok(()));
    }

    #[test]
    fn what_is_no_onnx_is_refused() {
        let fine = model(&field(5, b""));
        assert_eq!(check(&fine), Ok(()));
        for cut in 1..fine.len() - 1 {
            assert!(check(&fine[..cut]).is_err(), "{cut}");
        }
        for bytes in [&b""[..], b"\x08\x07", b"TFL3", b"<?xml?>", &field(7, b""), &[0xff; 40], &[0x0b, 0x0c]] {
            assert!(check(bytes).is_err());
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let mut graph = Vec::new();
        for _ in 0..MAX_DEPTH {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert!(check(&model(&graph)).unwrap_err().contains("deeper"));
    }
}
