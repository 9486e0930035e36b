//! How much memory this machine has.

use std::fs::File;
use std::io::Read;

/// What is assumed where the system does not say.
const ASSUMED: u64 = 4 << 30;
/// Most bytes of what the system says.
const MOST: u64 = 16 << 10;

/// Bytes of main memory.
pub(super) fn total() -> u64 {
    let mut text = String::new();
    let read = File::open("/proc/meminfo").and_then(|file| file.take(MOST).read_to_string(&mut text));
    read.ok().and_then(|_| parse(&text)).unwrap_or(ASSUMED)
}

fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        assert_eq!(parse("MemTotal:        8145304 kB\nMemFree: 1 kB\n"), Some(8_145_304 * 1024));
        for bad in ["", "MemTotal: x kB", "MemTotal: 5", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse(bad), None);
        }
        assert!(total() > 64 << 20);
    }
}
