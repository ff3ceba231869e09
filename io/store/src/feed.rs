//! The recent history, and who watches it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{Change, Changes, Revision, StoreError};

/// Changes that the history keeps for watchers that come late. The API server has a history of its own.
const HISTORY: usize = 10_000;

/// Keeps the last changes and passes new ones on. The caller serialises [`Feed::publish`].
#[derive(Debug)]
pub(crate) struct Feed {
    /// Revision before the oldest batch kept.
    since: Revision,
    batches: VecDeque<Arc<Vec<Change>>>,
    kept: usize,
    watchers: Vec<mpsc::UnboundedSender<Arc<Vec<Change>>>>,
}

impl Feed {
    pub(crate) fn new(revision: Revision) -> Self {
        Feed { since: revision, batches: VecDeque::new(), kept: 0, watchers: Vec::new() }
    }

    /// Takes whole commits, in order.
    pub(crate) fn publish(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let batch = Arc::new(changes);
        self.watchers.retain(|w| w.send(Arc::clone(&batch)).is_ok());
        self.kept += batch.len();
        self.batches.push_back(batch);
        while self.kept > HISTORY && self.batches.len() > 1 {
            if let Some(old) = self.batches.pop_front() {
                self.kept -= old.len();
                self.since = old.last().map_or(self.since, |c| c.revision);
            }
        }
    }

    pub(crate) fn watch(&mut self, from: Revision) -> Result<Changes, StoreError> {
        if from < self.since {
            return Err(StoreError::Compacted { requested: from, oldest: self.since });
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for batch in &self.batches {
            let Some(last) = batch.last() else { continue };
            if last.revision <= from {
                continue;
            }
            let missed: Vec<Change> = batch.iter().filter(|c| c.revision > from).cloned().collect();
            // The receiver is held below.
            let _ = sender.send(Arc::new(missed));
        }
        self.watchers.push(sender);
        Ok(receiver)
    }
}
