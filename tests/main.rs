//! The one integration test binary: linking dominates, so every suite is a module of it.

mod cli;
mod servers;
mod support;
