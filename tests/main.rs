//! The one integration test binary: linking dominates, so every suite is a module of it.

mod servers;
mod support;
