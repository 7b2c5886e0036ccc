//! Bytes in the repository that are not what they must be: found, named, and never taken for data.

use std::fs;
use std::path::Path;

use super::golden_copy::{files, sandbox, write};
use crate::support::{Barman, Output};

#[track_caller]
fn found(output: &Output, object: &Path, barman: &Barman) {
    let name = object.strip_prefix(barman.repository()).unwrap().to_str().unwrap();
    assert_ne!(output.status, 0, "{name}: {output}");
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains(name), "{name} is not named: {output}");
    assert!(!text.contains("panicked"), "{output}");
}

#[test]
fn a_flipped_cut_or_missing_object_of_every_kind_is_found_and_named() {
    let barman = sandbox();
    barman.ok(&["repo", "check", "--read-data"]);
    for kind in ["packs", "index", "snapshots", "wal"] {
        // The largest: some packs only have copies of snapshots, which no backup needs.
        let objects = files(&barman.repository().join(kind)).into_iter();
        let object = objects.max_by_key(|object| object.metadata().unwrap().len()).unwrap();
        let original = fs::read(&object).unwrap();
        for at in [9, original.len() / 2, original.len() - 1] {
            let mut bytes = original.clone();
            bytes[at] ^= 0x10;
            write(&object, &bytes);
            found(&barman.run(&["repo", "check", "--read-data"]), &object, &barman);
        }
        write(&object, &original[..original.len() / 2]);
        found(&barman.run(&["repo", "check", "--read-data"]), &object, &barman);
        if kind == "packs" {
            fs::remove_file(&object).unwrap();
            let missing = barman.run(&["repo", "check"]);
            found(&missing, &object, &barman);
            assert!(missing.stdout.contains("main/2") || missing.stderr.contains("main/2"));
        }
        write(&object, &original);
    }
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn objects_in_each_others_places_are_found() {
    let barman = sandbox();
    for kind in ["packs", "index", "snapshots", "wal"] {
        let objects = files(&barman.repository().join(kind));
        let (one, two) = (&objects[0], &objects[1]);
        let (first, second) = (fs::read(one).unwrap(), fs::read(two).unwrap());
        write(one, &second);
        write(two, &first);
        found(&barman.run(&["repo", "check", "--read-data"]), one, &barman);
        write(one, &first);
        write(two, &second);
    }
    barman.ok(&["repo", "check", "--read-data"]);
}

#[test]
fn a_damaged_pack_restores_no_wrong_byte() {
    let barman = sandbox();
    for (number, object) in files(&barman.repository().join("packs")).into_iter().enumerate() {
        let original = fs::read(&object).unwrap();
        let mut bytes = original.clone();
        let at = original.len() / 3;
        bytes[at] ^= 1;
        write(&object, &bytes);
        let destination = barman.path(&format!("restored-{number}"));
        let output = barman.run(&["restore", "main", "latest", destination.to_str().unwrap()]);
        if output.status != 0 {
            assert!(
                !destination.join("global/pg_control").exists(),
                "not to be taken for a server"
            );
        } else {
            // The damage is in what this backup does not use; everything was verified on the way.
            barman.ok(&["verify-backup", "main", "latest"]);
        }
        write(&object, &original);
    }
}

#[test]
fn newer_formats_other_keys_and_nothing_at_all() {
    let barman = sandbox();
    let refused = |words: &[&str]| {
        let output = barman.run(&["list-backups", "main"]);
        assert_eq!(output.status, 1, "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "{word}: {output}");
        }
    };
    // A newer version in front of a snapshot: its checksum is right, so that only the version speaks.
    let snapshot = files(&barman.repository().join("snapshots")).remove(0);
    let original = fs::read(&snapshot).unwrap();
    let mut newer = original[..original.len() - 32].to_vec();
    newer[8] = 2;
    let checksum = blake3::hash(&newer);
    newer.extend_from_slice(checksum.as_bytes());
    write(&snapshot, &newer);
    refused(&["format version 2", "newer barman"]);
    write(&snapshot, &original);

    let key = fs::read(barman.key_file()).unwrap();
    write(&barman.key_file(), format!("barman-key-1:{}\n", "0".repeat(64)).as_bytes());
    fs::set_permissions(barman.key_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    refused(&["does not open with this key file"]);
    fs::set_permissions(barman.key_file(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    refused(&["others can access it"]);
    write(&barman.key_file(), &key);
    fs::set_permissions(barman.key_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    barman.ok(&["list-backups", "main"]);

    // Without its configuration the copy in the key slot is used.
    fs::remove_dir_all(barman.repository().join("config")).unwrap();
    barman.ok(&["list-backups", "main"]);
    fs::remove_dir_all(barman.repository()).unwrap();
    refused(&["repository"]);
}

#[test]
fn another_repositorys_objects_do_not_count() {
    let (barman, other) = (sandbox(), Barman::initialised());
    let config = files(&other.repository().join("config")).remove(0);
    write(&barman.repository().join("config/2"), &fs::read(config).unwrap());
    // A configuration that does not authenticate is passed over.
    barman.ok(&["list-backups", "main"]);
    let slot = files(&other.repository().join("keys")).remove(0);
    let to = barman.repository().join("keys").join(slot.file_name().unwrap());
    write(&to, &fs::read(slot).unwrap());
    barman.ok(&["list-backups", "main"]);
    fs::copy(other.key_file(), barman.key_file()).unwrap();
    // The other key opens the other slot, and nothing here.
    let output = barman.ok(&["list-backups", "main"]);
    assert!(
        !output.stdout.contains("Size:") && output.stderr.contains("cannot be read"),
        "{output}"
    );
    let destination = barman.path("restored");
    let restored = barman.run(&["restore", "main", "latest", destination.to_str().unwrap()]);
    assert_ne!(restored.status, 0, "{restored}");
    assert!(!destination.exists(), "{restored}");
    let checked = barman.run(&["repo", "check"]);
    assert_eq!(checked.status, 1, "{checked}");
}
