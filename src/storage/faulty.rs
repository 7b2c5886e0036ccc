//! A storage that fails on order, for tests of what a failure at any moment leaves behind.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Cause, Error, Object, Result, Space, Storage};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and reports an error.
    Refused,
    /// The call does its work, but its acknowledgement is lost: it reports an error.
    LostAcknowledgement,
    /// As if the medium did not give back what is read.
    Unreadable,
}

/// Wraps a storage and fails from its n-th call on.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    calls: AtomicU64,
    fail_at: u64,
    once: bool,
    fault: Fault,
}

impl FaultyStorage {
    /// Fails at call number `fail_at`, counted from 1, and, unless `once`, at all later ones.
    pub fn new(inner: Arc<dyn Storage>, fail_at: u64, once: bool, fault: Fault) -> Self {
        FaultyStorage { inner, calls: AtomicU64::new(0), fail_at, once, fault }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The fault of the next call, if it has one.
    fn next(&self) -> Option<Fault> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fails = if self.once { call == self.fail_at } else { call >= self.fail_at };
        fails.then_some(self.fault)
    }

    fn error(&self, operation: &'static str, name: &str) -> Error {
        let cause = Cause::Io(match self.fault {
            Fault::Unreadable => rustix::io::Errno::IO.into(),
            Fault::Refused | Fault::LostAcknowledgement => std::io::Error::other("injected fault"),
        });
        Error { operation, name: name.to_owned(), location: self.location(), cause }
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn prepare(&self, group: Option<u32>) -> Result<()> {
        match self.next() {
            None => self.inner.prepare(group).await,
            Some(_) => Err(self.error("create", "")),
        }
    }

    async fn group(&self) -> Result<Option<u32>> {
        self.inner.group().await
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        match self.next() {
            None => self.inner.put(name, bytes).await,
            Some(fault) => {
                if fault == Fault::LostAcknowledgement {
                    self.inner.put(name, bytes).await?;
                }
                Err(self.error("write", name))
            }
        }
    }

    async fn get_durable(&self, name: &str) -> Result<Bytes> {
        match self.next() {
            None => self.inner.get_durable(name).await,
            Some(_) => Err(self.error("read", name)),
        }
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        match self.next() {
            None => self.inner.get(name).await,
            Some(_) => Err(self.error("read", name)),
        }
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        match self.next() {
            None => self.inner.get_range(name, range).await,
            Some(_) => Err(self.error("read", name)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        match self.next() {
            None => self.inner.list(prefix).await,
            Some(_) => Err(self.error("list", prefix)),
        }
    }

    async fn now(&self) -> Result<SystemTime> {
        self.inner.now().await
    }

    async fn remove_unfinished(&self, age: Duration) -> Result<usize> {
        self.inner.remove_unfinished(age).await
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

    async fn delete(&self, name: &str) -> Result<()> {
        match self.next() {
            None => self.inner.delete(name).await,
            Some(fault) => {
                if fault == Fault::LostAcknowledgement {
                    self.inner.delete(name).await?;
                }
                Err(self.error("delete", name))
            }
        }
    }
}
