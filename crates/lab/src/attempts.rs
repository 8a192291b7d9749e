//! Another attempt for an end-to-end test that failed. More than a hundred of them share two processors, a kernel and a control plane; one
//! that fails once in a thousand runs makes every tenth run of all red. What failed is told in any case: it is a bug, of the test or of the
//! program, and the next run may not show it.
//!
//! `make test` gives two attempts (`KUBE_PET_ATTEMPTS`); by hand there is one. What is broken fails twice.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::progress::say;

const ATTEMPTS: &str = "KUBE_PET_ATTEMPTS";
/// More tests than these fail because something is broken: they get no other attempt.
const TESTS: u32 = 3;
/// For what the first attempt had started, and nobody waits for any more, to end.
const PAUSE: Duration = Duration::from_secs(20);

static AGAIN: AtomicU32 = AtomicU32::new(0);

/// Runs a test, again if it fails and if that is wanted, each time with a runtime of its own.
///
/// # Errors
/// That of the last attempt, or that `KUBE_PET_ATTEMPTS` is no number.
pub fn run<F: Future<Output = Result<()>>>(name: &str, test: impl Fn() -> F) -> Result<()> {
    let attempts = match std::env::var(ATTEMPTS) {
        Ok(text) => text.parse().with_context(|| format!("{ATTEMPTS}={text}: how often to try a test, a number"))?,
        Err(_) => 1,
    };
    let may_again = || AGAIN.fetch_add(1, Ordering::Relaxed) < TESTS;
    tries(name, attempts, may_again, || std::thread::sleep(PAUSE), say, || once(&test))
}

fn tries(
    name: &str,
    attempts: u32,
    may_again: impl Fn() -> bool,
    pause: impl Fn(),
    tell: impl Fn(String),
    once: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut attempt = 1;
    loop {
        match once() {
            Ok(()) if attempt > 1 => {
                tell(format!("FLAKY {name}: it passed at attempt {attempt} only; see above why not at once"));
                return Ok(());
            }
            Err(error) if attempt < attempts && may_again() => {
                tell(format!("RETRY {name}: attempt {attempt} did not pass: {error:?}"));
                pause();
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn once<F: Future<Output = Result<()>>>(test: &impl Fn() -> F) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime for the test")?;
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(test()))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("it panicked: {}", text.unwrap_or("without a word")))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use anyhow::bail;

    use super::*;

    fn run_of(fails: u32, attempts: u32, may_again: bool) -> (Option<String>, u32, Vec<String>) {
        let (runs, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let once = || {
            runs.set(runs.get() + 1);
            if runs.get() <= fails { Err(anyhow!("failure {}", runs.get())) } else { Ok(()) }
        };
        let result = tries("t", attempts, || may_again, || {}, |line| told.borrow_mut().push(line), once);
        (result.err().map(|error| error.to_string()), runs.get(), told.into_inner())
    }

    #[test]
    fn what_fails_once_passes_with_two_attempts_and_what_is_broken_does_not() {
        for (fails, attempts, may_again, error, runs, told) in [
            (0, 2, true, None, 1, vec![]),
            (1, 2, true, None, 2, vec!["RETRY t", "FLAKY t"]),
            (2, 2, true, Some("failure 2"), 2, vec!["RETRY t"]),
            (1, 1, true, Some("failure 1"), 1, vec![]),
            (1, 2, false, Some("failure 1"), 1, vec![]),
        ] {
            let (failed, ran, lines) = run_of(fails, attempts, may_again);
            let lines: Vec<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
            assert_eq!((failed.as_deref(), ran, lines), (error, runs, told), "{fails} {attempts} {may_again}");
        }
    }

    #[test]
    fn a_panic_is_a_failure() {
        let error = once(&|| async { if true { panic!("no {}", 1) } else { bail!("unreachable") } }).unwrap_err();
        assert_eq!(error.to_string(), "it panicked: no 1");
        assert!(once(&|| async { Ok(()) }).is_ok());
    }
}
