//! Generated inputs for tests that have an obvious twin: one seed an input, a limit of time and memory for each, and a count.
//!
//! - `RANKDISTILL_FUZZ_CASES`: seeds of each test (2,000 by default; `make fuzz` asks for many more).
//! - `RANKDISTILL_FUZZ_SEED`: the first seed (0 by default). A failure names the seed of its input, so
//!   `RANKDISTILL_FUZZ_CASES=1 RANKDISTILL_FUZZ_SEED=n` runs that input alone.
//! - `RANKDISTILL_FUZZ_REPORT`: a file to which each test appends one JSON line when it has passed.

#![allow(dead_code, reason = "each test file uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// An input takes some microseconds; one that takes this long, on a busy machine, hangs.
const MOST_SECONDS: u64 = 60;
/// Inputs are a few KiB, rarely 1 MiB, so one that makes more than this live at once is an allocation bomb.
const MOST_BYTES: isize = 64 << 20;

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, with the bytes that each thread holds counted.
struct Counted;

fn note(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Names the input when a test panics.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed with RANKDISTILL_FUZZ_SEED={}", self.0);
        }
    }
}

/// Ends the process when one input takes too long; returns a value whose drop ends the watch.
fn watch(name: &'static str, seed: Arc<AtomicU64>) -> impl Sized {
    let (sender, receiver) = channel::<()>();
    thread::spawn(move || {
        let mut last = u64::MAX;
        while receiver.recv_timeout(Duration::from_secs(MOST_SECONDS)) == Err(RecvTimeoutError::Timeout) {
            let now = seed.load(Ordering::Relaxed);
            if now == last {
                eprintln!("{name}: hangs with RANKDISTILL_FUZZ_SEED={now}");
                std::process::abort();
            }
            last = now;
        }
    });
    sender
}

/// Runs `test`, which tries one input, with one generator a seed.
pub fn fuzz(name: &'static str, test: impl Fn(&mut Rng)) {
    fuzz_each(name, 1, test);
}

/// Runs `test`, which tries so many `inputs`, with one generator a seed.
pub fn fuzz_each(name: &'static str, inputs: u64, test: impl Fn(&mut Rng)) {
    let number = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    let (first, count) = (number("RANKDISTILL_FUZZ_SEED", 0), number("RANKDISTILL_FUZZ_CASES", 2_000));
    let (started, mut most, current) = (Instant::now(), 0, Arc::new(AtomicU64::new(first)));
    let watch = watch(name, current.clone());
    for seed in first..first + count {
        current.store(seed, Ordering::Relaxed);
        let case = Case(seed);
        let before = LIVE.get();
        PEAK.set(before);
        // Seeds that follow each other must not give generators that do.
        test(&mut Rng(Rng(seed).next()));
        let bytes = PEAK.get() - before;
        assert!(bytes <= MOST_BYTES, "{bytes} bytes at once");
        most = most.max(bytes);
        drop(case);
    }
    drop(watch);
    let inputs = inputs * count;
    let seconds = started.elapsed().as_secs_f64();
    println!("{name}: {inputs} inputs in {seconds:.1} s, at most {most} bytes at once");
    if let Some(path) = std::env::var_os("RANKDISTILL_FUZZ_REPORT") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a report that can be written");
        let line = format!(
            "{{\"target\": \"{name}\", \"first_seed\": {first}, \"seeds\": {count}, \"inputs\": {inputs}, \"seconds\": {seconds:.1}}}\n"
        );
        file.write_all(line.as_bytes()).expect("a report that can be written");
    }
}

/// Numbers at which sizes and places overflow.
const EXTREMES: [u64; 12] = [0, 1, 2, 255, 1 << 16, (1 << 31) - 1, 1 << 31, u32::MAX as u64, 1 << 60, (1 << 63) - 1, 1 << 63, u64::MAX];

/// `bytes` after one to four edits: changed bits, bytes and numbers, runs taken out or doubled, `words` put in, the end cut off.
pub fn mutated(rng: &mut Rng, mut bytes: Vec<u8>, words: &[&[u8]]) -> Vec<u8> {
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + rng.below(12)).min(bytes.len());
        match rng.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 if at < bytes.len() => bytes[at] = rng.next() as u8,
            3 => {
                let number = rng.pick(&EXTREMES).wrapping_add(rng.below(3) as u64).wrapping_sub(1).to_le_bytes();
                let width = rng.pick(&[4, 8]).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => drop(bytes.drain(at..end)),
            5 => bytes.extend_from_within(at..end),
            6 if !words.is_empty() => drop(bytes.splice(at..at, rng.pick(words).iter().copied())),
            _ if rng.one_in(3) => bytes.truncate(at),
            _ => bytes.push(rng.next() as u8),
        }
    }
    bytes
}

/// A folder for files of one test, in memory where the system has one.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder that can be written")
}
