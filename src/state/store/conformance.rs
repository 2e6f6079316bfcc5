//! What every [`Store`] must do; each implementation runs [`all`] in its own tests.

use std::sync::Arc;

use super::{Change, Durable, Store, StoreError, Table};

/// Runs the suite. `open` opens the same state again each time it is called; it starts empty.
pub fn all<S: Store>(open: impl Fn() -> S) {
    starts_empty(&open());
    rows_come_back_in_key_order(&open());
    tables_are_apart(&open());
    later_batches_win(&open());
    batches_need_not_be_awaited(&open());
    an_empty_batch_is_a_barrier(&open());
    parallel_writers_lose_nothing(&Arc::new(open()));
    rows_survive_a_reopening(&open);
    a_closed_store_says_so(&open());
}

/// Waits for a write outside of any runtime.
pub fn wait(durable: Durable) -> Result<(), StoreError> {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(durable)
}

/// One row to write, as text.
pub fn put(table: Table, key: &str, value: &str) -> Change {
    Change::Put { table, key: key.into(), value: value.into() }
}

/// One row to delete.
pub fn delete(table: Table, key: &str) -> Change {
    Change::Delete { table, key: key.into() }
}

/// The rows of a table, as text.
pub fn rows<S: Store + ?Sized>(store: &S, table: Table) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    store.load(table).expect("rows").into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn starts_empty<S: Store>(store: &S) {
    for table in Table::ALL {
        assert_eq!(rows(store, table), [], "{table:?}");
    }
    store.close();
}

fn rows_come_back_in_key_order<S: Store>(store: &S) {
    let keys = ["b", "", "a\0z", "a", "ab"];
    wait(store.write(keys.iter().map(|key| put(Table::Bans, key, key)).collect())).expect("written");
    let read: Vec<_> = rows(store, Table::Bans).into_iter().map(|(key, _)| key).collect();
    assert_eq!(read, ["", "a", "a\0z", "ab", "b"]);
    wait(store.write(keys.iter().map(|key| delete(Table::Bans, key)).collect())).expect("deleted");
    assert_eq!(rows(store, Table::Bans), []);
    store.close();
}

fn tables_are_apart<S: Store>(store: &S) {
    wait(store.write(Table::ALL.iter().map(|table| put(*table, "key", table.name())).collect())).expect("written");
    wait(store.write(vec![delete(Table::Approvals, "key"), delete(Table::Approvals, "absent")])).expect("deleted");
    for table in Table::ALL {
        let expected = if table == Table::Approvals { vec![] } else { vec![("key".into(), table.name().into())] };
        assert_eq!(rows(store, table), expected, "{table:?}");
    }
    wait(store.write(Table::ALL.iter().map(|table| delete(*table, "key")).collect())).expect("deleted");
    store.close();
}

fn later_batches_win<S: Store>(store: &S) {
    let writes: Vec<_> = (0..100).map(|turn| store.write(vec![put(Table::Bans, "turn", &turn.to_string())])).collect();
    let last = store.write(vec![put(Table::Bans, "turn", "lost"), delete(Table::Bans, "turn"), put(Table::Bans, "turn", "last")]);
    wait(last).expect("written");
    writes.into_iter().for_each(|write| wait(write).expect("written before the last"));
    assert_eq!(rows(store, Table::Bans), [("turn".into(), "last".into())]);
    wait(store.write(vec![delete(Table::Bans, "turn")])).expect("deleted");
    store.close();
}

fn batches_need_not_be_awaited<S: Store>(store: &S) {
    drop(store.write(vec![put(Table::Successes, "left", "behind")]));
    wait(store.write(vec![put(Table::Successes, "then", "awaited")])).expect("written");
    assert_eq!(rows(store, Table::Successes).len(), 2);
    wait(store.write(vec![delete(Table::Successes, "left"), delete(Table::Successes, "then")])).expect("deleted");
    store.close();
}

fn an_empty_batch_is_a_barrier<S: Store>(store: &S) {
    drop(store.write(vec![put(Table::Bans, "before", "the barrier")]));
    wait(store.write(Vec::new())).expect("a barrier");
    assert_eq!(rows(store, Table::Bans).len(), 1);
    wait(store.write(vec![delete(Table::Bans, "before")])).expect("deleted");
    store.close();
}

fn parallel_writers_lose_nothing<S: Store>(store: &Arc<S>) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(store);
            std::thread::spawn(move || {
                // Both rows of a batch or neither: the pair is checked below.
                let writes: Vec<_> = (0..50)
                    .map(|turn| {
                        let key = format!("{writer}-{turn}");
                        store.write(vec![put(Table::Bans, &key, "1"), put(Table::BanHistory, &key, "1")])
                    })
                    .collect();
                writes.into_iter().for_each(|write| wait(write).expect("written"));
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    assert_eq!(rows(&**store, Table::Bans).len(), 400);
    assert_eq!(rows(&**store, Table::BanHistory), rows(&**store, Table::Bans));
    let deletes = rows(&**store, Table::Bans)
        .iter()
        .flat_map(|(key, _)| [delete(Table::Bans, key), delete(Table::BanHistory, key)])
        .collect();
    wait(store.write(deletes)).expect("deleted");
    store.close();
}

fn rows_survive_a_reopening<S: Store>(open: &impl Fn() -> S) {
    let store = open();
    wait(store.write(vec![put(Table::Approvals, "kept", "yes"), put(Table::Approvals, "gone", "no")])).expect("written");
    // Queued, never awaited: closing waits for it.
    drop(store.write(vec![delete(Table::Approvals, "gone")]));
    store.close();
    drop(store);
    let store = open();
    assert_eq!(rows(&store, Table::Approvals), [("kept".into(), "yes".into())]);
    store.close();
}

fn a_closed_store_says_so<S: Store>(store: &S) {
    store.close();
    store.close();
    assert!(matches!(wait(store.write(vec![put(Table::Bans, "late", "1")])), Err(StoreError::Closed)));
    assert!(matches!(store.load(Table::Bans), Err(StoreError::Closed)));
    assert!(!store.describe().is_empty());
}
