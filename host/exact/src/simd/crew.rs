//! Threads that share the parts of one operation.
//!
//! An operation of a small model lasts tens of microseconds, as long as waking a thread. So the
//! calling thread does not hand its work over and sleep: it takes parts itself, as the threads of the
//! pool do, and those that wake late find less left to do. When no part is left it
//! waits only for parts that others have begun, never for a thread that has not come yet.
//!
//! Each thread has a share of the parts, the same in every operation of as many parts, and helps with the others when
//! its own is done: rows that one operation has written are mostly read by the same core in the next, out of its own
//! cache.
//!
//! The operations of a block follow each other closely. So a thread of the pool that finds no part left
//! lingers for a moment, and takes up the next operation without having slept.

use core::any::Any;
use core::marker::PhantomData;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Thread, current, park};
use std::time::{Duration, Instant};

/// How often the calling thread looks for the others to finish before it sleeps.
const SPINS: usize = 20_000;
/// How long a thread lingers after an operation: longer than what lies between two operations, far
/// shorter than anyone would notice on the other work of the machine.
const LINGER: Duration = Duration::from_micros(150);

/// A pool of threads, the calling thread among them.
pub(crate) struct Crew {
    /// The others; none if the calling thread is alone.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    notice: Arc<Notice>,
}

impl Crew {
    /// A crew of `threads`, the calling one included.
    pub(crate) fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = match threads {
            0 | 1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("exact-{}", i + 1))
                    .build()?,
            ),
        };
        Ok(Self { pool, threads: threads.max(1), notice: Arc::default() })
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Free the cores of threads that linger, for somebody else's threads.
    pub(crate) fn dismiss(&self) {
        self.notice.dismiss();
    }

    /// From now on no thread lingers after an operation.
    pub(crate) fn never_linger(&self) {
        self.notice.never.store(true, Ordering::Release);
        self.dismiss();
    }

    /// Call `work` once for each part of `data`; part i ends at `ends[i]` and starts where the one
    /// before it ends. `ends` must not decrease nor pass the end of `data`.
    pub(crate) fn each_part<T: Send>(&self, data: &mut [T], ends: &[usize], work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end <= data.len()), "parts that do not fit");
        let whole = Shared::new(data);
        let bounds = |i: usize| {
            let start = i.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
            (start, ends.get(i).copied().unwrap_or(start))
        };
        let part = |i: usize| {
            let (start, end) = bounds(i);
            // SAFETY: the ends are sorted, so parts do not overlap, and each index comes once.
            #[allow(unsafe_code)]
            let part = unsafe { whole.range(start, end) };
            work(i, part);
        };
        self.each(ends.len(), &part);
    }

    /// As [`each_part`](Self::each_part), in parts of `size` elements (the last may be shorter).
    pub(crate) fn each_chunk<T: Send>(&self, data: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        if size >= data.len() || self.pool.is_none() {
            for (i, chunk) in data.chunks_mut(size.max(1)).enumerate() {
                work(i, chunk);
            }
            return;
        }
        let len = data.len();
        let ends: Vec<usize> = (1..=len.div_ceil(size)).map(|i| (i * size).min(len)).collect();
        self.each_part(data, &ends, work);
    }

    /// Call `work` once for each index below `parts`.
    pub(crate) fn each(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let Some(pool) = self.pool.as_ref().filter(|_| parts > 1) else {
            (0..parts).for_each(work);
            return;
        };
        let work: *const (dyn Fn(usize) + Sync + '_) = work;
        // SAFETY: only the lifetime changes. `Job::run` follows the pointer for indices below `parts`
        // alone, and this function returns when all of those are done.
        #[allow(unsafe_code)]
        let work = unsafe {
            core::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(work)
        };
        let job = Arc::new(Job {
            work,
            parts,
            next: (0..self.threads).map(|share| AtomicUsize::new(share * parts / self.threads)).collect(),
            left: AtomicUsize::new(parts),
            failure: Mutex::new(None),
            caller: current(),
        });
        let lingering = self.notice.post(&job);
        for _ in 1 + lingering..self.threads.min(parts) {
            let (job, notice) = (Arc::clone(&job), Arc::clone(&self.notice));
            pool.spawn(move || {
                let share = rayon::current_thread_index().map_or(0, |i| i + 1);
                job.run(share);
                notice.linger(share);
            });
        }
        job.run(0);
        let mut spins = 0;
        while job.left.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS {
                core::hint::spin_loop();
            } else {
                park();
            }
        }
        let failure = job.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(failure) = failure {
            resume_unwind(failure);
        }
    }
}

struct Job {
    work: *const (dyn Fn(usize) + Sync),
    parts: usize,
    /// Of each thread's share the part that is next.
    next: Box<[AtomicUsize]>,
    left: AtomicUsize,
    /// What a part panicked with: a fault of this program, which the caller must see.
    failure: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

// SAFETY: `work` is `Sync` behind the pointer, and `run` says when it may be followed.
#[allow(unsafe_code)]
unsafe impl Send for Job {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Job {}

impl Job {
    /// Do what is left of share `own`, then of the others.
    fn run(&self, own: usize) {
        let shares = self.next.len();
        for share in (own..shares).chain(0..own) {
            let end = (share + 1) * self.parts / shares;
            let Some(next) = self.next.get(share) else { return };
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= end {
                    break;
                }
                self.part(i);
            }
        }
    }

    fn part(&self, i: usize) {
        // SAFETY: part i is not done, so `left` is not 0 and `Crew::each` still holds the borrow.
        #[allow(unsafe_code)]
        let work = unsafe { &*self.work };
        if let Err(failure) = catch_unwind(AssertUnwindSafe(|| work(i))) {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.caller.unpark();
        }
    }
}

/// Where lingering threads see the next operation.
#[derive(Default)]
struct Notice {
    /// Changes with every operation.
    number: AtomicUsize,
    lingering: AtomicUsize,
    /// Whether nobody is to linger.
    never: AtomicBool,
    job: Mutex<Option<Arc<Job>>>,
}

impl Notice {
    /// Show `job` to the threads that linger, and say how many those are. One that leaves at this very
    /// moment is missed: the others do its share.
    fn post(&self, job: &Arc<Job>) -> usize {
        let lingering = self.lingering.load(Ordering::Acquire);
        if lingering > 0 {
            if let Ok(mut slot) = self.job.lock() {
                *slot = Some(Arc::clone(job));
            }
            self.number.fetch_add(1, Ordering::Release);
        }
        lingering
    }

    /// Send away the threads that linger.
    fn dismiss(&self) {
        if self.lingering.load(Ordering::Acquire) > 0 {
            if let Ok(mut slot) = self.job.lock() {
                *slot = None;
            }
            self.number.fetch_add(1, Ordering::Release);
        }
    }

    /// Take up what is posted, beginning with share `own`, until nothing has been for a while.
    fn linger(&self, own: usize) {
        if self.never.load(Ordering::Acquire) {
            return;
        }
        self.lingering.fetch_add(1, Ordering::AcqRel);
        let mut seen = self.number.load(Ordering::Acquire);
        let mut since = Instant::now();
        while since.elapsed() < LINGER {
            for _ in 0..8 {
                core::hint::spin_loop();
            }
            let number = self.number.load(Ordering::Acquire);
            if number == seen {
                continue;
            }
            seen = number;
            let Some(job) = self.job.lock().ok().and_then(|slot| slot.clone()) else { break };
            // A thread at work does not linger: the next operation may need another one.
            self.lingering.fetch_sub(1, Ordering::AcqRel);
            job.run(own);
            self.lingering.fetch_add(1, Ordering::AcqRel);
            since = Instant::now();
        }
        self.lingering.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A slice that several threads write to, each in ranges of its own.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T> Shared<'a, T> {
    /// Borrow `data` until this is dropped.
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// The elements from `start` to `end`, or as many of them as there are.
    ///
    /// # Safety
    /// No two ranges that are alive at the same time may overlap.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, end: usize) -> &mut [T] {
        let end = end.min(self.len);
        let start = start.min(end);
        // SAFETY: in bounds, borrowed for 'a, and the caller keeps ranges apart.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(start), end - start) }
    }
}

// SAFETY: it only hands out disjoint `&mut [T]`, which may go to other threads as T: Send.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Shared<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_once() {
        for threads in 1..4 {
            let crew = Crew::new(threads).unwrap();
            for parts in 0..40 {
                let mut data = vec![0u8; parts * 3];
                let ends: Vec<usize> = (1..=parts).map(|i| i * 3).collect();
                crew.each_part(&mut data, &ends, |i, part| part.iter_mut().for_each(|x| *x += i as u8 + 1));
                let want: Vec<u8> = (0..parts * 3).map(|i| (i / 3) as u8 + 1).collect();
                assert_eq!(data, want);
            }
        }
    }

    #[test]
    fn a_failed_part_reaches_the_caller_and_the_crew_lives_on() {
        let crew = Crew::new(2).unwrap();
        let failed = catch_unwind(AssertUnwindSafe(|| crew.each(9, &|i| assert_ne!(i, 5))));
        assert!(failed.is_err());
        let count = AtomicUsize::new(0);
        crew.each(9, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 9);
    }
}
