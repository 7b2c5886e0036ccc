//! What the program promises, played on real servers through its own command line.

mod archive;
mod clocks;
mod configuration;
mod deleting;
mod encrypted;
mod facts;
mod forks;
mod identity;
mod in_place;
mod incremental;
mod layouts;
mod local;
mod moments;
mod nothing;
mod only;
mod pages;
mod refusals;
mod rehearsals;
mod restores;
mod segments;
mod standby;
mod streamed;
mod targets;
