//! The state directory gives back what was put there, or says what is damaged and goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use gateway_user::feed::{self, LastGood, Snapshot, Store};
use proptest::prelude::*;
use tempfile::TempDir;

fn snapshot(prefix: &str, version: &str) -> Snapshot {
    let list = format!(
        r#"[{{"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
            "ips": ["{prefix}"], "tcpPorts": "443"}}]"#
    );
    Snapshot {
        instance: Some("Worldwide".to_owned()),
        version: Some(version.to_owned()),
        ..feed::parse(list.as_bytes(), "list").unwrap()
    }
}

fn first() -> Snapshot {
    snapshot("203.0.113.0/25", "2026063000")
}

fn second() -> Snapshot {
    snapshot("203.0.113.0/24", "2026073100")
}

fn open() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("lib/breakout365")).unwrap();
    (directory, store)
}

fn whole(snapshot: Snapshot) -> LastGood {
    LastGood { snapshot: Some(snapshot), skipped: Vec::new() }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn it_is_made_for_its_owner_alone_and_refused_when_others_may_write() {
    let (_directory, store) = open();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(store.directory()), 0o700);
    store.accept(&first()).unwrap();
    assert_eq!(mode(&store.directory().join("last-good.json")), 0o600);
    Store::open(store.directory()).unwrap();
    for open in [0o720, 0o702, 0o777] {
        fs::set_permissions(store.directory(), fs::Permissions::from_mode(open)).unwrap();
        let refusal = Store::open(store.directory()).unwrap_err().to_string();
        assert!(refusal.starts_with(store.directory().to_str().unwrap()), "{refusal}");
        assert!(refusal.contains("can be written to by others") && !refusal.contains('\n'));
    }
    fs::set_permissions(store.directory(), fs::Permissions::from_mode(0o750)).unwrap();
    Store::open(store.directory()).unwrap();
    let file = store.directory().join("last-good.json");
    let refusal = Store::open(&file).unwrap_err().to_string();
    assert!(refusal.starts_with(&format!("{}: cannot be created", file.display())), "{refusal}");
}

#[test]
fn the_last_good_snapshot_and_the_one_before_are_kept() {
    let (_directory, store) = open();
    assert_eq!(store.last_good(), LastGood::default());
    assert_eq!(store.previous(), LastGood::default());
    store.accept(&first()).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(first()), LastGood::default()));
    store.accept(&second()).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(second()), whole(first())));
    // The same once more does not push the one before out.
    store.accept(&second()).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(second()), whole(first())));
    assert_eq!(names(store.directory()), ["last-good.json", "previous.json"]);
    let again = Store::open(store.directory()).unwrap();
    assert_eq!(again.last_good(), whole(second()));
}

#[test]
fn a_look_into_it_makes_nothing() {
    let (directory, store) = open();
    store.accept(&first()).unwrap();
    assert_eq!(Store::peek(store.directory()).last_good(), whole(first()));
    let nowhere = directory.path().join("nowhere");
    assert_eq!(Store::peek(&nowhere).last_good(), LastGood::default());
    assert!(!nowhere.exists());
}

/// So that it can be looked at and used elsewhere.
#[test]
fn what_is_kept_is_a_feed_file_too() {
    let (_directory, store) = open();
    let embedded = feed::embedded().unwrap();
    store.accept(&embedded).unwrap();
    assert_eq!(feed::read(&store.directory().join("last-good.json")).unwrap(), embedded);
}

#[test]
fn a_version_alone_is_a_difference() {
    let (_directory, store) = open();
    let old = snapshot("203.0.113.0/24", "2026063000");
    store.accept(&old).unwrap();
    store.accept(&second()).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(second()), whole(old)));
}

#[test]
fn where_the_last_good_one_is_damaged_the_one_before_serves_and_is_not_overwritten() {
    let (_directory, store) = open();
    store.accept(&first()).unwrap();
    store.accept(&second()).unwrap();
    let path = store.directory().join("last-good.json");
    fs::write(&path, "{}").unwrap();
    let LastGood { snapshot, skipped } = store.last_good();
    assert_eq!(snapshot, Some(first()));
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].starts_with(&format!("{}: is damaged", path.display())), "{skipped:?}");
    let third = snapshot_of_two();
    store.accept(&third).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(third), whole(first())));

    fs::write(&path, "{}").unwrap();
    fs::remove_file(store.directory().join("previous.json")).unwrap();
    fs::create_dir(store.directory().join("previous.json")).unwrap();
    let LastGood { snapshot, skipped } = store.last_good();
    assert_eq!((snapshot, skipped.len()), (None, 2));
    assert!(skipped[1].contains("previous.json: cannot be read"), "{skipped:?}");
}

fn snapshot_of_two() -> Snapshot {
    snapshot("198.51.100.0/24", "2026083100")
}

#[test]
fn a_snapshot_cut_off_at_any_byte_is_skipped() {
    let (_directory, store) = open();
    store.accept(&second()).unwrap();
    let path = store.directory().join("last-good.json");
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let LastGood { snapshot, skipped } = store.last_good();
        assert_eq!((snapshot, skipped.len()), (None, 1), "cut off at byte {length}");
        assert!(!skipped[0].contains('\n'), "{skipped:?}");
    }
}

#[test]
fn a_snapshot_with_any_byte_changed_is_skipped() {
    let (_directory, store) = open();
    store.accept(&second()).unwrap();
    let path = store.directory().join("last-good.json");
    let mut bytes = fs::read(&path).unwrap();
    for index in 0..bytes.len() {
        for flip in [0x01, 0x10, 0x20, 0x80] {
            bytes[index] ^= flip;
            fs::write(&path, &bytes).unwrap();
            let LastGood { snapshot, skipped } = store.last_good();
            assert_eq!((snapshot, skipped.len()), (None, 1), "byte {index} ^ {flip:#x}");
            bytes[index] ^= flip;
        }
    }
}

/// What a crash leaves beside the files is no obstacle, and no state.
#[test]
fn a_write_that_was_cut_off_leaves_what_was_before() {
    let (_directory, store) = open();
    store.accept(&first()).unwrap();
    fs::write(store.directory().join(".last-good.json.new"), "{\n  \"seal\": ").unwrap();
    assert_eq!(store.last_good(), whole(first()));
    store.accept(&second()).unwrap();
    assert_eq!((store.last_good(), store.previous()), (whole(second()), whole(first())));
    assert_eq!(names(store.directory()), ["last-good.json", "previous.json"]);
}

#[test]
fn the_clients_id_is_made_once_and_a_damaged_one_is_replaced_and_said() {
    let (_directory, store) = open();
    let made = store.client_id().unwrap();
    assert_eq!((made.id.get_version_num(), &made.replaced), (4, &None));
    assert_eq!(store.client_id().unwrap(), made);
    assert_eq!(Store::open(store.directory()).unwrap().client_id().unwrap(), made);
    let (_other_directory, other) = open();
    assert_ne!(other.client_id().unwrap().id, made.id);
    let path = store.directory().join("client-request-id");
    let damaged: [&[u8]; 5] = [
        b"",
        b"\n",
        b"b10c5ed1-bad1-445f-b386",
        b"\xff\xfe",
        // Version 1 tells who made it, and when.
        b"b10c5ed1-bad1-145f-b386-b919946339a7\n",
    ];
    for damaged in damaged {
        fs::write(&path, damaged).unwrap();
        let replaced = store.client_id().unwrap();
        let said = replaced.replaced.unwrap();
        assert!(said.starts_with(path.to_str().unwrap()) && !said.contains('\n'), "{said}");
        assert_ne!(replaced.id, made.id);
        assert_eq!(store.client_id().unwrap().id, replaced.id);
    }
}

#[test]
fn small_files_are_read_back_or_named() {
    let (_directory, store) = open();
    assert_eq!(store.read_json::<Vec<u32>>("numbers.json").unwrap(), None);
    store.write_json("numbers.json", &[1, 2, 3]).unwrap();
    assert_eq!(store.read_json("numbers.json").unwrap(), Some(vec![1, 2, 3]));
    let path = store.directory().join("numbers.json");
    fs::write(&path, "[1, 2").unwrap();
    let refusal = store.read_json::<Vec<u32>>("numbers.json").unwrap_err().to_string();
    assert!(refusal.starts_with(path.to_str().unwrap()) && !refusal.contains('\n'), "{refusal}");
    store.write_json("numbers.json", &[4]).unwrap();
    assert_eq!(store.read_json("numbers.json").unwrap(), Some(vec![4]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_directory, store) = open();
        for name in ["last-good.json", "previous.json", "client-request-id"] {
            fs::write(store.directory().join(name), &bytes).unwrap();
        }
        let LastGood { snapshot, skipped } = store.last_good();
        prop_assert_eq!((snapshot, skipped.len()), (None, 2));
        store.client_id().unwrap();
        store.accept(&first()).unwrap();
        prop_assert_eq!(store.last_good(), whole(first()));
    }
}
