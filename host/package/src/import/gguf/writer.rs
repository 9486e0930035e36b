//! Writes GGUF files for tests, good ones and others.

use std::path::{Path, PathBuf};

/// A file in parts, so that a test can spoil any of them.
#[derive(Clone)]
pub(in crate::import) struct Writer {
    pub(in crate::import) version: u32,
    /// Key, number of the type, bytes of the value.
    pub(in crate::import) metadata: Vec<(String, u32, Vec<u8>)>,
    pub(in crate::import) tensors: Vec<Stored>,
    pub(in crate::import) alignment: usize,
}

/// A tensor: its offset follows from those before it, unless it is given.
#[derive(Clone)]
pub(in crate::import) struct Stored {
    pub(in crate::import) name: String,
    /// Columns first.
    pub(in crate::import) dims: Vec<u64>,
    pub(in crate::import) kind: u32,
    pub(in crate::import) data: Vec<u8>,
    pub(in crate::import) offset: Option<u64>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    pub(in crate::import) fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    pub(in crate::import) fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.metadata.retain(|(known, ..)| known != key);
        self.metadata.push((key.to_owned(), kind, value));
    }

    pub(in crate::import) fn remove(&mut self, key: &str) {
        let before = self.metadata.len();
        self.metadata.retain(|(known, ..)| known != key);
        assert!(self.metadata.len() < before, "{key}");
    }

    pub(in crate::import) fn number(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes().to_vec());
    }

    pub(in crate::import) fn float(&mut self, key: &str, value: f32) {
        self.set(key, 6, value.to_le_bytes().to_vec());
    }

    pub(in crate::import) fn flag(&mut self, key: &str, value: bool) {
        self.set(key, 7, vec![value.into()]);
    }

    pub(in crate::import) fn text(&mut self, key: &str, value: &str) {
        self.set(key, 8, text(value));
    }

    pub(in crate::import) fn list(&mut self, key: &str, element: u32, count: usize, values: &[u8]) {
        let head = [&element.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.set(key, 9, [&head, values].concat());
    }

    pub(in crate::import) fn texts(&mut self, key: &str, values: &[String]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.list(key, 8, values.len(), &bytes);
    }

    pub(in crate::import) fn integers(&mut self, key: &str, values: &[i32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.list(key, 5, values.len(), &bytes);
    }

    /// A tensor of F32, its shape rows first.
    pub(in crate::import) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = shape.iter().rev().map(|&d| d as u64).collect();
        self.tensors.push(Stored { name: name.to_owned(), dims, kind: 0, data, offset: None });
    }

    pub(in crate::import) fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub(in crate::import) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(text(&tensor.name));
            out.extend(u32::try_from(tensor.dims.len()).unwrap().to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    pub(in crate::import) fn write(&self, directory: &Path) -> PathBuf {
        let file = directory.join("model.gguf");
        std::fs::write(&file, self.bytes()).unwrap();
        file
    }
}
