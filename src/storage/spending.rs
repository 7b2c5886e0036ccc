//! A storage that spends the reserve: for work that makes room, and has to write something first.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Object, Result, Space, Storage};

/// Wraps a storage. A write for which there is no space gives the reserve free, and is tried again.
#[derive(Debug)]
pub struct SpendingStorage {
    inner: Arc<dyn Storage>,
}

impl SpendingStorage {
    /// Spends what `inner` has set aside, if that is needed.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        SpendingStorage { inner }
    }

    /// Makes a call that writes something, and makes it again with the space of the reserve.
    async fn spending<'a, T>(
        &'a self,
        call: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        match call().await {
            Err(error) if error.is_full() && self.release_reserve().await? => {
                tracing::warn!("no space is left in {}: its reserve is used", self.location());
                call().await
            }
            answer => answer,
        }
    }
}

#[async_trait]
impl Storage for SpendingStorage {
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
        self.spending(|| self.inner.put(name, bytes.clone())).await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        self.inner.get(name).await
    }

    async fn get_durable(&self, name: &str) -> Result<Bytes> {
        self.inner.get_durable(name).await
    }

    async fn now(&self) -> Result<SystemTime> {
        self.spending(|| self.inner.now()).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<usize> {
        self.spending(|| self.inner.remove_unfinished(age)).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.inner.space().await
    }

    async fn ensure_reserve(&self, bytes: Option<u64>) -> Result<()> {
        self.inner.ensure_reserve(bytes).await
    }

    async fn release_reserve(&self) -> Result<bool> {
        self.inner.release_reserve().await
    }
}
