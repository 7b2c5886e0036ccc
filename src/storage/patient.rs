//! A storage that waits for a place that is away for a while: not mounted, full, read-only, or failing.
//!
//! For work that cannot be begun again cheaply. What is tried again is safe to try again: a write whose
//! acknowledgement was lost finds its own bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Object, Result, Space, Storage};
use crate::interrupt::Interrupt;

/// The pause between the first two attempts; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A call that takes so long is worth a word.
const SLOW: Duration = Duration::from_secs(30);

/// Wraps a storage, and tries again what may pass.
#[derive(Debug)]
pub struct PatientStorage {
    inner: Arc<dyn Storage>,
    patience: Duration,
    interrupt: Interrupt,
    /// Whether it was said that the place is away.
    away: AtomicBool,
}

impl PatientStorage {
    /// Waits for `inner` for so long at each call, unless a signal asks the process to end.
    pub fn new(inner: Arc<dyn Storage>, patience: Duration, interrupt: Interrupt) -> Self {
        PatientStorage { inner, patience, interrupt, away: AtomicBool::new(false) }
    }

    /// Makes a call until it succeeds, or fails in a way that does not pass, or patience ends. `call` is told whether
    /// it was tried before.
    async fn patiently<'a, T>(
        &'a self,
        call: impl Fn(bool) -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        let end = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        let mut again = false;
        loop {
            let error = match self.attentively(call(again)).await {
                Err(error) if error.may_pass() => error,
                answer => {
                    if answer.is_ok() && self.away.swap(false, Ordering::Relaxed) {
                        tracing::warn!("{} is back", self.location());
                    }
                    return answer;
                }
            };
            if self.interrupt.signal().is_some() || Instant::now() + pause > end {
                return Err(error);
            }
            if !self.away.swap(true, Ordering::Relaxed) {
                let patience = self.patience.as_secs();
                let remedy = if error.is_full() {
                    "; to prune, end this backup first: what it has stored is found by the next"
                } else {
                    ""
                };
                tracing::warn!(
                    "waiting up to {patience} s for the repository: {error}: {}{remedy}",
                    error.cause
                );
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.interrupt.wait() => return Err(error),
            }
            (pause, again) = ((pause * 2).min(LONGEST_PAUSE), true);
        }
    }

    /// Waits for one call, and says so when it takes long: a file system may hang instead of failing.
    async fn attentively<T>(&self, call: BoxFuture<'_, Result<T>>) -> Result<T> {
        tokio::pin!(call);
        loop {
            match tokio::time::timeout(SLOW, &mut call).await {
                Ok(answer) => return answer,
                Err(_) => {
                    tracing::warn!("{} has not answered for {} s", self.location(), SLOW.as_secs())
                }
            }
        }
    }
}

#[async_trait]
impl Storage for PatientStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn prepare(&self, group: Option<u32>) -> Result<()> {
        self.inner.prepare(group).await
    }

    async fn group(&self) -> Result<Option<u32>> {
        self.inner.group().await
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.patiently(|again| {
            let bytes = bytes.clone();
            Box::pin(async move {
                match self.inner.put(name, bytes.clone()).await {
                    // An earlier attempt may have done it, and its acknowledgement was lost.
                    Err(error) if again && error.already_exists() => {
                        let is_ours = self.inner.get(name).await? == bytes;
                        if is_ours { Ok(()) } else { Err(error) }
                    }
                    put => put,
                }
            })
        })
        .await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        self.patiently(|_| self.inner.get(name)).await
    }

    async fn get_durable(&self, name: &str) -> Result<Bytes> {
        self.patiently(|_| self.inner.get_durable(name)).await
    }

    async fn now(&self) -> Result<SystemTime> {
        self.patiently(|_| self.inner.now()).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.patiently(|_| self.inner.get_range(name, range.clone())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.patiently(|_| self.inner.list(prefix)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.patiently(|_| self.inner.delete(name)).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<usize> {
        self.inner.remove_unfinished(age).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.patiently(|_| self.inner.space()).await
    }

    async fn ensure_reserve(&self, bytes: Option<u64>) -> Result<()> {
        self.inner.ensure_reserve(bytes).await
    }

    async fn release_reserve(&self) -> Result<bool> {
        self.inner.release_reserve().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faulty::{Fault, FaultyStorage};
    use crate::storage::local::LocalStorage;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn patient(inner: Arc<dyn Storage>, patience: Duration) -> PatientStorage {
        PatientStorage::new(inner, patience, Interrupt::never())
    }

    async fn place() -> (tempfile::TempDir, Arc<dyn Storage>) {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalStorage::new(directory.path().join("r"));
        storage.prepare(None).await.unwrap();
        (directory, Arc::new(storage))
    }

    #[tokio::test]
    async fn one_failure_of_any_call_is_not_seen() {
        for fault in [Fault::Refused, Fault::LostAcknowledgement] {
            for n in 1..=5 {
                let (_directory, healthy) = place().await;
                let faulty = Arc::new(FaultyStorage::new(healthy.clone(), n, true, fault));
                let storage = patient(faulty.clone(), PATIENCE);
                storage.put("a", Bytes::from_static(b"1")).await.unwrap();
                assert_eq!(storage.get("a").await.unwrap(), "1");
                assert_eq!(storage.get_range("a", 0..1).await.unwrap(), "1");
                assert_eq!(storage.list("a").await.unwrap().len(), 1);
                storage.delete("a").await.unwrap();
                assert!(healthy.list("").await.unwrap().is_empty(), "{fault:?} at call {n}");
                assert!(faulty.calls() > 5);
            }
        }
    }

    #[tokio::test]
    async fn what_another_has_put_meanwhile_is_not_taken_for_ours() {
        let (_directory, healthy) = place().await;
        healthy.put("a", Bytes::from_static(b"theirs")).await.unwrap();
        let faulty = Arc::new(FaultyStorage::new(healthy, 1, true, Fault::Refused));
        let storage = patient(faulty, PATIENCE);
        let refused = storage.put("a", Bytes::from_static(b"ours")).await.unwrap_err();
        assert!(refused.already_exists());
    }

    #[tokio::test]
    async fn patience_ends_and_answers_are_not_waited_on() {
        let (_directory, healthy) = place().await;
        let storage = patient(healthy.clone(), PATIENCE);
        assert!(storage.get("none").await.unwrap_err().is_not_found());
        let faulty = Arc::new(FaultyStorage::new(healthy, 1, false, Fault::Refused));
        let storage = patient(faulty.clone(), Duration::from_millis(700));
        assert!(storage.list("").await.unwrap_err().may_pass());
        assert_eq!(faulty.calls(), 2);
    }

    #[tokio::test]
    async fn a_place_that_comes_back_is_gone_on_with() {
        let (directory, healthy) = place().await;
        let (here, away) = (directory.path().join("r"), directory.path().join("away"));
        crate::storage::local::durable_rename(&here, &away).unwrap();
        let storage = patient(healthy, PATIENCE);
        let put = tokio::spawn(async move {
            storage.put("a/b", Bytes::from_static(b"1")).await.map(|()| storage)
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!put.is_finished() && !here.exists());
        crate::storage::local::durable_rename(&away, &here).unwrap();
        let storage = put.await.unwrap().unwrap();
        assert_eq!(storage.get("a/b").await.unwrap(), "1");
    }
}
