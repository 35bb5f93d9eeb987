//! The queue between decoding threads and the calling thread, bounded by bytes and by number.
//!
//! A bound by number alone would hold a thumbnail's input as dear as a large one's: a GPU wants many batches of small
//! inputs waiting, and memory allows few of large ones.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bounds of the items that wait. An item over the byte limit waits alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) n_items: usize,
    pub(super) n_bytes: usize,
}

/// A queue from several senders to one receiver.
pub(super) struct Queue<T> {
    limits: QueueLimits,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// Items with their sizes in bytes.
    items: VecDeque<(usize, T)>,
    n_bytes: usize,
    n_senders: usize,
    /// Whether the receiver has gone.
    is_closed: bool,
}

/// Result of waiting for an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<T> {
    Item(T),
    /// None came in time.
    Late,
    /// None will come: all senders are done.
    End,
}

impl<T> Queue<T> {
    /// An empty queue that waits for `n_senders` senders, each of which must hold a [`Self::sending`].
    pub(super) fn new(limits: QueueLimits, n_senders: usize) -> Self {
        let state = State { items: VecDeque::new(), n_bytes: 0, n_senders, is_closed: false };
        Self { limits, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // A panic of a holder leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item of `n_bytes` as soon as there is room. False if the receiver has gone.
    pub(super) fn send(&self, n_bytes: usize, item: T) -> bool {
        let QueueLimits { n_items: most_items, n_bytes: most_bytes } = self.limits;
        let is_full = |state: &mut State<T>| {
            let n_items = state.items.len();
            !state.is_closed && n_items > 0 && (n_items >= most_items || state.n_bytes + n_bytes > most_bytes)
        };
        let state = self.changed.wait_while(self.state(), is_full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return false;
        }
        state.n_bytes += n_bytes;
        state.items.push_back((n_bytes, item));
        self.changed.notify_all();
        true
    }

    /// Takes the first item, waiting for it at most `patience`.
    pub(super) fn receive(&self, patience: Duration) -> Received<T> {
        let until = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if let Some((n_bytes, item)) = state.items.pop_front() {
                state.n_bytes -= n_bytes;
                self.changed.notify_all();
                return Received::Item(item);
            }
            if state.n_senders == 0 {
                return Received::End;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Late;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts one sender out when it is dropped, also by a panic.
    pub(super) fn sending(&self) -> AtEnd<impl FnMut()> {
        AtEnd(|| {
            self.state().n_senders -= 1;
            self.changed.notify_all();
        })
    }

    /// When it is dropped, also by a panic, the queue drops what waits and refuses what comes.
    pub(super) fn receiving(&self) -> AtEnd<impl FnMut()> {
        AtEnd(|| {
            let mut state = self.state();
            state.is_closed = true;
            state.items.clear();
            self.changed.notify_all();
        })
    }
}

/// Calls a function when it is dropped.
pub(super) struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn a_queue_holds_what_its_limits_allow_and_one_item_of_any_size() {
        let queue = Queue::new(QueueLimits { n_items: 3, n_bytes: 10 }, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _sending = queue.sending();
                for n_bytes in [30, 4, 4, 4, 1, 1, 1] {
                    assert!(queue.send(n_bytes, n_bytes));
                }
            });
            let mut received = Vec::new();
            loop {
                let state = queue.state();
                let waiting: Vec<usize> = state.items.iter().map(|(n_bytes, _)| *n_bytes).collect();
                assert_eq!(state.n_bytes, waiting.iter().sum::<usize>());
                assert!(waiting.len() <= 1 || (waiting.len() <= 3 && state.n_bytes <= 10), "{waiting:?}");
                drop(state);
                match queue.receive(Duration::from_secs(10)) {
                    Received::Item(item) => received.push(item),
                    Received::Late => panic!("the sender is alive"),
                    Received::End => break,
                }
            }
            assert_eq!(received, [30, 4, 4, 4, 1, 1, 1]);
        });
    }

    #[test]
    fn waiting_ends_in_time_and_closing_lets_senders_go() {
        let queue = Queue::new(QueueLimits { n_items: 1, n_bytes: 10 }, 1);
        assert_eq!(queue.receive(SOON), Received::Late);
        assert!(queue.send(1, 'a'));
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| queue.send(1, 'b'));
            drop(queue.receiving());
            assert!(!sent.join().expect("no panic"), "the receiver has gone");
        });
        drop(queue.sending());
        assert_eq!(queue.receive(SOON), Received::End);
    }
}
