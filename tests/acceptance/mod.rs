//! What the program promises, played on real servers through its own command line.

mod archive;
mod layouts;
mod moments;
mod pages;
mod refusals;
mod standby;
mod targets;
