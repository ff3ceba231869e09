//! Where things go that nobody waits for: a task for each place, with a bounded queue before it. It lives as long as
//! a configuration has the place.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::LogSink;

/// Between two lines about the same.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// For what waits when the server ends.
const LAST: Duration = Duration::from_secs(2);

/// What did not get through.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    all: AtomicU64,
    told: Mutex<(u64, Option<Instant>)>,
}

impl Dropped {
    pub(crate) fn add(&self, count: usize) {
        self.all.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Says how many more there are, not too often.
    pub(crate) fn tell(&self, log: &LogSink, what: &str) {
        let (all, now) = (self.all.load(Ordering::Relaxed), Instant::now());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if all > told.0 && told.1.is_none_or(|at| now.duration_since(at) >= EVERY) {
            log(&format!("[WARNING] {what}: {}", all - told.0));
            *told = (all, Some(now));
        }
    }
}

struct Outlet<K, M> {
    /// The configuration's own: when it is gone, so is the outlet.
    place: Weak<K>,
    queue: mpsc::Sender<M>,
    dropped: Arc<Dropped>,
}

/// The outlets that are open, and the tasks behind them and behind those that were.
pub(crate) struct Outlets<K, M> {
    open: Mutex<HashMap<K, Outlet<K, M>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl<K, M> Default for Outlets<K, M> {
    fn default() -> Self {
        Outlets { open: Mutex::default(), tasks: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, M> Outlets<K, M> {
    fn all(&self) -> MutexGuard<'_, HashMap<K, Outlet<K, M>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands something over; where there is no outlet, `task` is behind a new one, with room for `size` to wait. What
    /// there is no room for is dropped and counted, and so is what comes where nobody is any more.
    pub(crate) fn send<F: Future<Output = ()> + Send + 'static>(
        &self,
        to: &Arc<K>,
        message: Option<M>,
        size: usize,
        task: impl FnOnce(mpsc::Receiver<M>, Arc<Dropped>) -> F,
    ) {
        let mut all = self.all();
        if !all.contains_key(&**to) {
            let (dropped, (queue, receiver)) = (Arc::new(Dropped::default()), mpsc::channel(size));
            self.tasks().spawn(task(receiver, dropped.clone()));
            all.insert((**to).clone(), Outlet { place: Weak::new(), queue, dropped });
        }
        let Some(outlet) = all.get_mut(&**to) else { return };
        if outlet.place.as_ptr() != Arc::as_ptr(to) {
            outlet.place = Arc::downgrade(to);
        }
        if message.is_some_and(|message| outlet.queue.try_send(message).is_err()) {
            outlet.dropped.add(1);
        }
    }

    /// Closes those that no configuration has any more; what waits in them still goes its way.
    pub(crate) fn sweep(&self) {
        self.all().retain(|_, outlet| outlet.place.strong_count() > 0);
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
    }

    /// Closes all. What waits in them has a moment to go its way.
    pub(crate) async fn close(&self) {
        self.all().clear();
        let mut tasks = std::mem::take(&mut *self.tasks());
        let all = async { while tasks.join_next().await.is_some() {} };
        // Who does not take it by then will not.
        let _ = tokio::time::timeout(LAST, all).await;
    }

    /// How much was dropped, as a metric with the place's name.
    pub(crate) fn render(&self, name: &str, help: &str, label: impl Fn(&K) -> String, out: &mut String) {
        let all = self.all();
        let mut lines: Vec<String> = all
            .iter()
            .map(|(place, outlet)| {
                let (label, count) = (label(place), outlet.dropped.all.load(Ordering::Relaxed));
                format!("{name}{{endpoint={label:?}}} {count}")
            })
            .collect();
        if !lines.is_empty() {
            lines.sort();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{}", lines.join("\n"));
        }
    }
}
