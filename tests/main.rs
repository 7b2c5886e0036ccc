//! The one integration test binary: linking dominates, so every suite is a module of it.

#![allow(clippy::unwrap_used)]

mod acceptance;
mod cli;
mod faults;
mod golden;
mod hosts;
mod postgres;
mod second_reader;
mod servers;
mod support;
