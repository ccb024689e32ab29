//! The queue in virtual time.

use super::*;
use crate::store::SpoolEntry;

fn queue(max_bytes: usize, max_items: Option<u64>) -> Queue {
    Queue::new(QueueSettings { max_bytes, max_items, max_spool_bytes: 1000, in_order: false })
}

pub(super) fn batch(bytes: usize) -> Batch {
    Batch { body: Bytes::from(vec![0; bytes]), items: 1, needs: Commit(0), origins: Origins::new() }
}

pub(super) fn at(mono: u64) -> Now {
    Now { mono: Monotonic(mono), wall: UnixNanos(mono.cast_signed()) }
}

pub(super) fn begin(queue: &mut Queue, now: u64) -> Option<BatchId> {
    queue.advance(Monotonic(now));
    queue.begin(9, false, Monotonic(now)).map(|(id, _)| id)
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// A queue with a disk that takes what is written.
fn with_disk(max_bytes: usize) -> Queue {
    let mut queue = queue(max_bytes, None);
    queue.note_store(Commit(0), true, Monotonic(0));
    queue
}

#[test]
fn room_is_bounded_by_bytes_and_by_items() {
    let mut queue = queue(100, Some(3));
    queue.push(batch(50), at(0));
    assert!(queue.has_room(1, 20, 1, 30));
    assert!(!queue.has_room(1, 20, 1, 31));
    assert!(!queue.has_room(2, 0, 1, 1));
    let id = begin(&mut queue, 0).unwrap();
    assert!(!queue.has_room(0, 0, 1, 51), "a batch in flight still takes its room");
    queue.finish(id).unwrap();
    assert!(queue.has_room(0, 0, 1, 100));
    assert_eq!((queue.items(), queue.size_bytes(), queue.batches()), (0, 0, 0));
}

#[test]
fn a_batch_that_failed_waits_and_others_go_on() {
    let mut queue = queue(1000, None);
    let ids: Vec<_> = [1, 2, 3].map(|bytes| queue.push(batch(bytes), at(0))).into();
    assert_eq!(begin(&mut queue, 0), Some(ids[0]));
    queue.put_back(ids[0], Monotonic(0), |failures| nanos(u64::from(failures) * 100));
    assert_eq!(begin(&mut queue, 99), Some(ids[1]));
    assert_eq!(begin(&mut queue, 100), Some(ids[2]));
    assert_eq!(begin(&mut queue, 100), Some(ids[0]));
    queue.put_back(ids[0], Monotonic(100), |failures| nanos(u64::from(failures) * 100));
    queue.put_back(ids[1], Monotonic(100), |_| nanos(50));
    assert_eq!(begin(&mut queue, 149), None);
    assert_eq!(queue.poll_timeout(9, false), Some(Monotonic(150)));
    queue.release(Monotonic(149));
    assert_eq!(begin(&mut queue, 149), Some(ids[0]));
}

#[test]
fn only_the_waiting_grow_old() {
    let mut queue = queue(1000, None);
    queue.push(batch(1), at(0));
    queue.push(batch(2), at(10));
    assert!(queue.drop_older_than(nanos(100), Monotonic(99)).is_none());
    let first = begin(&mut queue, 0).unwrap();
    assert!(queue.drop_older_than(nanos(100), Monotonic(100)).is_none());
    assert!(queue.drop_older_than(nanos(100), Monotonic(110)).is_some());
    assert_eq!(queue.size_bytes(), 1);
    assert!(queue.finish(first).is_some());
    assert!(queue.finish(first).is_none());
}

#[test]
fn a_batch_is_held_until_what_it_was_made_of_is_durable() {
    let mut queue = with_disk(1000);
    queue.push(Batch { needs: Commit(5), ..batch(1) }, at(0));
    assert_eq!(begin(&mut queue, 0), None);
    queue.note_store(Commit(4), true, Monotonic(0));
    assert_eq!(begin(&mut queue, 0), None);
    queue.note_store(Commit(5), true, Monotonic(0));
    assert!(begin(&mut queue, 0).is_some());
    queue.push(Batch { needs: Commit(9), ..batch(1) }, at(0));
    assert_eq!(begin(&mut queue, 0), None);
    queue.note_store(Commit(5), false, Monotonic(0));
    assert!(begin(&mut queue, 0).is_some(), "nothing ever will be durable");
}

#[test]
fn a_batch_leaves_memory_once_its_copy_is_durable_and_comes_back() {
    let mut queue = with_disk(100);
    let id = queue.push(batch(80), at(0));
    assert!(queue.is_memory_low(0, 0));
    queue.copy(id, SpoolId(7), false, Monotonic(0)).unwrap();
    queue.leave(id);
    assert!(!queue.is_memory_low(0, 0), "it is about to leave");
    assert_eq!((queue.size_bytes(), queue.spooled_items()), (80, 0));
    queue.pushed(Commit(1), Monotonic(0));
    queue.note_store(Commit(1), true, Monotonic(0));
    assert_eq!((queue.size_bytes(), queue.spooled_items(), queue.spooled_bytes()), (0, 1, 80));
    assert_eq!(begin(&mut queue, 0), None);
    assert_eq!(queue.next_loads(0), [SpoolId(7)]);
    assert_eq!(queue.next_loads(0), []);
    assert!(queue.loaded(SpoolId(7), Some(Bytes::from(vec![0; 80])), Monotonic(0)).is_none());
    assert_eq!((queue.size_bytes(), queue.spooled_items()), (80, 0));
    assert_eq!(begin(&mut queue, 0), Some(id));
    // What was read back does not stay when it fails.
    queue.put_back(id, Monotonic(0), |_| nanos(5));
    assert_eq!((queue.size_bytes(), queue.spooled_items()), (0, 1));
    queue.advance(Monotonic(5));
    assert_eq!(queue.next_loads(0), [SpoolId(7)]);
    assert_eq!(queue.loaded(SpoolId(7), None, Monotonic(5)).map(|lost| lost.items), Some(1));
    assert_eq!((queue.batches(), queue.spooled_items(), queue.spooled_bytes()), (0, 0, 0));
}

#[test]
fn only_so_much_is_read_ahead() {
    let mut queue = with_disk(800);
    for number in 1..=5 {
        let left = SpoolEntry {
            id: SpoolId(number),
            signal: crate::exporter::signal::Signal::Traces,
            items: 1,
            bytes: 40,
            filled_at: UnixNanos(0),
            origins: Origins::new(),
        };
        queue.recover(&left, at(0));
    }
    assert_eq!(queue.next_loads(0), [SpoolId(1), SpoolId(2)], "an eighth of the bound");
    queue.not_loaded(SpoolId(1), Monotonic(9), Monotonic(0));
    assert_eq!(queue.next_loads(0), [SpoolId(3)]);
    queue.loaded(SpoolId(2), Some(Bytes::from(vec![0; 40])), Monotonic(0));
    assert_eq!(queue.next_loads(0), []);
    let id = begin(&mut queue, 0).unwrap();
    queue.finish(id).unwrap();
    assert_eq!(queue.next_loads(0), [SpoolId(4)]);
    assert_eq!(queue.spooled_items(), 4);
}

#[test]
fn a_copy_that_may_not_be_on_disk_is_none() {
    let mut queue = with_disk(100);
    let id = queue.push(batch(80), at(0));
    queue.copy(id, SpoolId(7), false, Monotonic(0)).unwrap();
    queue.pushed(Commit(1), Monotonic(0));
    queue.leave(id);
    queue.note_store(Commit(0), false, Monotonic(0));
    assert_eq!(queue.forget_doubtful_copies(), [SpoolId(7)]);
    assert_eq!((queue.size_bytes(), queue.spooled_bytes()), (80, 0));
    assert_eq!(queue.uncopied().collect::<Vec<_>>(), [id]);
    assert_eq!(begin(&mut queue, 0), Some(id));
}

#[test]
fn pieces_stand_where_the_whole_stood() {
    let mut queue = queue(1000, None);
    let first = queue.push(batch(8), at(0));
    let second = queue.push(batch(1), at(0));
    assert_eq!(begin(&mut queue, 0), Some(first));
    let whole = queue.finish(first).unwrap();
    let pieces = queue.replace(first, &whole, vec![batch(4), batch(4)], Monotonic(0));
    assert_eq!(pieces.len(), 2);
    assert_eq!(begin(&mut queue, 0), Some(pieces[0]));
    let whole = queue.finish(pieces[0]).unwrap();
    let smaller = queue.replace(pieces[0], &whole, vec![batch(2), batch(2)], Monotonic(0));
    let order: Vec<_> = std::iter::from_fn(|| begin(&mut queue, 0)).collect();
    assert_eq!(order, [smaller[0], smaller[1], pieces[1], second]);
}
