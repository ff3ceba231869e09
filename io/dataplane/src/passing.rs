//! Packets that are on their way through the kernel's rules.

use rustix::thread::{MembarrierCommand, membarrier};
use std::time::Duration;

/// How long is waited where the kernel cannot say when they have passed (`nohz_full`): more than softirqs take in one go.
const LONG: Duration = Duration::from_millis(50);

/// Waits until every packet that is somewhere between one hook and the next has come to its end: what was written before
/// then holds for each that comes, and none is on its way that met what stood before it. Takes some ten milliseconds.
///
/// A hook's chains are walked within an RCU read section, and `MEMBARRIER_CMD_GLOBAL` waits for all of those
/// (membarrier(2); kernel/sched/membarrier.c calls synchronize_rcu).
pub fn packets_pass() {
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        tracing::debug!(%error, "packets on their way are waited for by time");
        std::thread::sleep(LONG);
    }
}
