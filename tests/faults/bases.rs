//! What deltas are made on: lost, damaged, or gone by rights. The next backup stores again what is missing.

use std::fs;
use std::path::PathBuf;

use crate::support::{Barman, Cluster, account};

/// A file of the cluster that nothing but these tests writes to.
const SMALL: &str = "base/1/990001";

fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The same with a little else in every page.
fn changed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.chunks_mut(8192).for_each(|page| page[100..120].fill(7));
    bytes
}

fn source() -> (Cluster, Barman) {
    let mut cluster = Cluster::builder(17)
        .initdb("--wal-segsize=1")
        .without_checksums()
        .setting("autovacuum", "off")
        .start();
    let barman = Barman::initialised();
    barman.server("main", &cluster, "immediate_checkpoint = true\n");
    barman.archive_from("main", &mut cluster);
    (cluster, barman)
}

fn put(cluster: &Cluster, name: &str, bytes: &[u8]) {
    let path = cluster.data().join(name);
    fs::write(&path, bytes).unwrap();
    account::hand_over(&path);
}

fn remove(cluster: &Cluster, name: &str) {
    fs::remove_file(cluster.data().join(name)).unwrap();
}

#[track_caller]
fn back_up(barman: &Barman, more: &[&str]) -> String {
    barman.ok(&[&["backup", "main", "--wait", "--no-retry"], more].concat());
    let shown = barman.json(&["show-backup", "main", "latest"]);
    shown["main"]["backup_id"].as_str().unwrap().to_owned()
}

fn packs(barman: &Barman) -> Vec<PathBuf> {
    let directories = fs::read_dir(barman.repository().join("packs")).unwrap();
    let files = directories.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[track_caller]
fn is_sound(barman: &Barman) {
    barman.ok(&["repo", "check", "--read-data"]);
    barman.ok(&["verify-backup", "main", "latest"]);
}

#[test]
fn a_delta_that_outlives_its_base_is_no_damage_and_stored_again_when_it_is_needed() {
    let (cluster, barman) = source();
    let small = noise("small", 12 * 8192);
    put(&cluster, SMALL, &small);
    for number in ["1", "4", "5"] {
        put(&cluster, &format!("base/{number}/990002"), &noise(number, 45 << 20));
    }
    let one = back_up(&barman, &[]);
    for number in ["1", "4", "5"] {
        remove(&cluster, &format!("base/{number}/990002"));
    }
    // The delta is in a pack of which most stays.
    put(&cluster, SMALL, &changed(small.clone()));
    put(&cluster, "base/1/990003", &noise("kept", 20 << 20));
    let two = back_up(&barman, &[]);
    remove(&cluster, SMALL);
    back_up(&barman, &[]);
    barman.ok(&["delete", "main", &one]);
    barman.ok(&["delete", "main", &two]);
    barman.ok(&["repo", "prune"]);
    is_sound(&barman);

    put(&cluster, SMALL, &changed(small));
    back_up(&barman, &[]);
    is_sound(&barman);
    back_up(&barman, &["--incremental", "none"]);
    is_sound(&barman);
}

#[test]
fn what_lost_packs_had_is_stored_again_also_where_deltas_were_on_it() {
    let (cluster, barman) = source();
    let small = noise("small", 12 * 8192);
    put(&cluster, SMALL, &small);
    back_up(&barman, &[]);
    let first = packs(&barman);
    put(&cluster, SMALL, &changed(small));
    put(&cluster, "base/1/990003", &noise("kept", 20 << 20));
    back_up(&barman, &[]);
    first.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    assert_ne!(barman.run(&["repo", "check"]).status, 0);
    barman.ok(&["repo", "repair", "packs"]);
    back_up(&barman, &[]);
    barman.ok(&["verify-backup", "main", "latest"]);
    back_up(&barman, &["--incremental", "none"]);
    barman.ok(&["verify-backup", "main", "latest"]);
}

#[test]
fn a_damaged_base_is_named_alone_and_stored_again_after_the_repair() {
    let (cluster, barman) = source();
    let large = noise("large", 4 << 20);
    put(&cluster, "base/1/990004", &large);
    back_up(&barman, &[]);
    let first = packs(&barman);
    put(&cluster, "base/1/990004", &changed(large.clone()));
    put(&cluster, "base/1/990003", &noise("kept", 20 << 20));
    back_up(&barman, &[]);
    let mut damaged = vec![];
    for pack in first {
        let mut bytes = fs::read(&pack).unwrap();
        if bytes.len() > 1 << 20 {
            let end = bytes.len() - 100_000;
            bytes[10_000..end].iter_mut().step_by(20_000).for_each(|byte| *byte ^= 1);
            fs::write(&pack, bytes).unwrap();
            damaged.push(pack);
        }
    }
    let checked = barman.run(&["repo", "check", "--read-data"]);
    assert_eq!(checked.status, 1, "{checked}");
    for pack in packs(&barman) {
        let name = pack.file_name().unwrap().to_str().unwrap();
        let is_named = format!("{checked}").contains(name);
        assert_eq!(is_named, damaged.contains(&pack), "{name}: {checked}");
    }
    barman.ok(&["repo", "repair", "packs"]);
    let mut next = changed(large);
    next[5] ^= 1;
    put(&cluster, "base/1/990004", &next);
    back_up(&barman, &[]);
    barman.ok(&["verify-backup", "main", "latest"]);
}
