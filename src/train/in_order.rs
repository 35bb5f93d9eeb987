//! Parallel work on several threads whose results are used in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::bounded;

/// Number of results per thread that may be ready or in progress before their use.
const AHEAD_PER_THREAD: usize = 2;

/// Computes results 0 to `n` on `n_threads` threads ahead of time, and passes them to `consume` in order.
pub(super) fn in_order<T: Send, E>(
    n: usize,
    n_threads: usize,
    make: impl Fn(usize) -> T + Sync,
    mut consume: impl FnMut(usize, T) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    let n_threads = n_threads.clamp(1, n.max(1));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // The receiver is dropped when this closure ends for any reason. This ends the threads.
        let (sender, receiver) = bounded(AHEAD_PER_THREAD * n_threads);
        for _ in 0..n_threads {
            let (sender, next, make) = (sender.clone(), &next, &make);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n || sender.send((i, make(i))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for i in 0..n {
            let thing = loop {
                if let Some(thing) = early.remove(&i) {
                    break thing;
                }
                let (j, thing) = receiver.recv().expect("threads end after the last thing only");
                early.insert(j, thing);
            };
            if consume(i, thing)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_in_order_whoever_makes_them() {
        for n_threads in [1, 3] {
            let mut seen = Vec::new();
            let ended = in_order(
                50,
                n_threads,
                |i| i * i,
                |i, square| {
                    seen.push((i, square));
                    Ok::<_, ()>(if i == 40 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                },
            );
            assert_eq!(ended, Ok(ControlFlow::Break(())));
            assert_eq!(seen, (0..=40).map(|i| (i, i * i)).collect::<Vec<_>>());
        }
    }
}
