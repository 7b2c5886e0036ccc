//! The `barman` command.

fn main() {}
