//! The memory of a process, searched for bytes that must not be in it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Fewest bytes of what is searched for: shorter ones are there by chance.
pub const MIN_NEEDLE: usize = 16;
/// Fewest different bytes of it: what has fewer, such as zeros, is in many a memory.
const MIN_DIFFERENT: usize = 8;
/// Bytes that are hashed.
const KEY: usize = 8;
/// The logarithm of the bits of the table that says what may begin here: it stays in a cache.
const TABLE_BITS: u32 = 24;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// What is searched for, by kind.
pub struct Needles {
    /// Kinds and bytes, by their first bytes.
    by_start: HashMap<u64, Vec<(String, Vec<u8>)>>,
    table: Vec<u64>,
    counts: BTreeMap<String, usize>,
}

/// What was searched and found.
#[derive(Debug, Default)]
pub struct Found {
    /// Bytes that were searched.
    pub searched: u64,
    /// How many places, by kind.
    pub places: BTreeMap<String, usize>,
}

impl Default for Needles {
    fn default() -> Self {
        let (by_start, counts) = Default::default();
        Self { by_start, table: vec![0; 1 << (TABLE_BITS - 6)], counts }
    }
}

fn start(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk::<KEY>()?))
}

/// A word of the table and a bit of it.
const fn slot(start: u64) -> (usize, u64) {
    let hash = start.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - TABLE_BITS);
    ((hash >> 6) as usize, hash & 63)
}

impl Needles {
    /// Search for these bytes too. Those that are short or plain are left out.
    pub fn add(&mut self, kind: &str, bytes: &[u8]) {
        let mut different = bytes.to_vec();
        different.sort_unstable();
        different.dedup();
        let Some(key) = start(bytes).filter(|_| bytes.len() >= MIN_NEEDLE && different.len() >= MIN_DIFFERENT) else {
            return;
        };
        let (word, bit) = slot(key);
        if let Some(there) = self.table.get_mut(word) {
            *there |= 1 << bit;
        }
        self.by_start.entry(key).or_default().push((kind.to_owned(), bytes.to_vec()));
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    /// Search for pieces of so many bytes, one after another, or one out of several.
    pub fn add_pieces(&mut self, kind: &str, bytes: &[u8], piece: usize, one_of: usize) {
        for bytes in bytes.chunks_exact(piece).step_by(one_of) {
            self.add(kind, bytes);
        }
    }

    /// How many, by kind.
    pub const fn counts(&self) -> &BTreeMap<String, usize> {
        &self.counts
    }

    /// Search bytes.
    fn search(&self, bytes: &[u8], found: &mut Found) {
        for (at, window) in bytes.windows(KEY).enumerate() {
            let Some(key) = start(window) else { continue };
            let (word, bit) = slot(key);
            if self.table.get(word).is_none_or(|there| there >> bit & 1 == 0) {
                continue;
            }
            for (kind, needle) in self.by_start.get(&key).into_iter().flatten() {
                if bytes.get(at..at + needle.len()) == Some(needle) {
                    *found.places.entry(kind.clone()).or_default() += 1;
                }
            }
        }
    }

    /// Search the memory of a process.
    pub fn search_memory(&self, memory: &Memory) -> Found {
        let mut found = Found::default();
        for part in &memory.0 {
            self.search(part, &mut found);
            found.searched += part.len() as u64;
        }
        found
    }
}

/// All memory of a process that can be read and has ever been touched.
pub struct Memory(Vec<Vec<u8>>);

impl Memory {
    /// Copy it. The process should stand still.
    ///
    /// # Errors
    /// There is no such process, or this one may not read its memory.
    pub fn of(process: u32) -> io::Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
        let memory = File::open(format!("/proc/{process}/mem"))?;
        let pages = File::open(format!("/proc/{process}/pagemap"))?;
        let mut parts = Vec::new();
        for line in maps.lines() {
            let Some((range, rest)) = line.split_once(' ') else { continue };
            let number = |text| u64::from_str_radix(text, 16).ok();
            let Some((Some(from), Some(to))) = range.split_once('-').map(|(a, b)| (number(a), number(b))) else {
                continue;
            };
            // What the kernel maps for itself cannot be read.
            if !rest.starts_with('r') || rest.contains("[v") {
                continue;
            }
            for (from, to) in touched(&pages, from, to)? {
                let mut part = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
                memory.read_exact_at(&mut part, from)?;
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }
}

/// The parts of a mapping that are there, in memory or swapped out. The rest has never been written, or is in a file only.
fn touched(pages: &File, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut entries = vec![0; 1 << 16];
    let mut at = from;
    while at < to {
        let wanted = usize::try_from((to - at) / PAGE).unwrap_or(usize::MAX).saturating_mul(8).min(entries.len());
        let entries = entries.get_mut(..wanted).unwrap_or_default();
        pages.read_exact_at(entries, at / PAGE * 8)?;
        for entry in entries.as_chunks::<8>().0 {
            // Bits 63 and 62: present, swapped.
            if u64::from_le_bytes(*entry) >> 62 != 0 {
                match parts.last_mut() {
                    Some((_, end)) if *end == at => *end += PAGE,
                    _ => parts.push((at, at + PAGE)),
                }
            }
            at += PAGE;
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let secret: String = (0..64u8).map(|i| char::from(33 + i.wrapping_mul(37) % 94)).collect();
        let mut needles = Needles::default();
        needles.add("there", secret.as_bytes());
        needles.add("plain", &[0; 64]);
        needles.add("short", &secret.as_bytes()[..8]);
        assert_eq!(needles.counts().keys().collect::<Vec<_>>(), ["there"]);
        // Of other processes: this one does not stand still, other tests run in it.
        let search = |command: &mut Command| {
            let mut child = command.arg("60").spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
            let found = needles.search_memory(&Memory::of(child.id()).unwrap());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(found.searched > 0);
            found.places
        };
        let there = search(Command::new("sleep").env("OSTRAKON_SECRET", &secret));
        assert!(there.keys().eq(["there"]), "{there:?}");
        assert_eq!(search(&mut Command::new("sleep")), BTreeMap::new());
    }
}
