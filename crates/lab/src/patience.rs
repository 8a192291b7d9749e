//! Waiting for something to become true, without sleeping longer than needed.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks again and again until `attempt` succeeds and returns what it found.
///
/// # Errors
/// When `limit` has passed; the error names `what` and the last attempt's own error.
pub async fn eventually<T, F, Fut>(limit: Duration, what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let failure = match attempt().await {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        if start.elapsed() >= limit {
            bail!("{what}: not within {limit:?}; last seen: {failure:#}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

/// Checks again and again that `check` keeps holding for `period`.
///
/// # Errors
/// The first failure of `check`.
pub async fn always<F, Fut>(period: Duration, what: &str, mut check: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let start = Instant::now();
    while start.elapsed() < period {
        if let Err(failure) = check().await {
            bail!("{what}: broken after {:?}: {failure:#}", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_up_with_the_last_reason() {
        let error = eventually(Duration::from_millis(30), "the moon", || async { bail!("still dark") as Result<()> })
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("the moon") && error.contains("still dark"), "{error}");
    }
}
