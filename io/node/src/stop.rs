//! Stops one container: preStop hook, TERM, grace period, KILL (`killContainer` of
//! `pkg/kubelet/kuberuntime/kuberuntime_container.go`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use sealane_host::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::Context;
use crate::events::Level;
use crate::images::Images;
use crate::prober::{Target, hook};

/// What a process gets after its hook, or after the containers before it, even where these took the whole grace
/// period (`minimumGracePeriodInSeconds`).
pub(crate) const MINIMUM: Duration = Duration::from_secs(2);
const TERM: i32 = 15;
const KILL: i32 = 9;

/// What is stopped, and by when.
pub(crate) struct Stop {
    pub(crate) pod: Arc<Pod>,
    pub(crate) field: String,
    pub(crate) target: Target,
    pub(crate) done: watch::Receiver<Option<i32>>,
    pub(crate) deadline: watch::Receiver<Instant>,
    /// From TERM to KILL at least.
    pub(crate) minimum: Duration,
}

/// Comes when the deadline has, which may move nearer meanwhile.
async fn passed(deadline: &mut watch::Receiver<Instant>, at_least: Instant) {
    loop {
        let at = (*deadline.borrow_and_update()).max(at_least);
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => if changed.is_err() {
                tokio::time::sleep_until(at).await;
                return;
            },
        }
    }
}

async fn ended(done: &mut watch::Receiver<Option<i32>>) {
    // The sender goes only with the worker; then nobody waits for this either.
    let _ = done.wait_for(Option::is_some).await;
}

fn signal_number(name: Option<&str>) -> i32 {
    match name {
        Some("SIGHUP") => 1,
        Some("SIGINT") => 2,
        Some("SIGQUIT") => 3,
        Some("SIGKILL") => 9,
        Some("SIGUSR1") => 10,
        Some("SIGUSR2") => 12,
        Some("SIGWINCH") => 28,
        _ => TERM,
    }
}

/// Does it; returns when the process has ended or has been killed.
pub(crate) async fn stop<R: Runtime, I: Images>(ctx: Arc<Context<R, I>>, mut stop: Stop) {
    let lifecycle = stop.target.container.lifecycle.clone();
    if let Some(handler) = lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        tokio::select! {
            result = hook(&*ctx.runtime, &stop.target, handler) => if let Err(message) = result {
                let message = format!("PreStopHook failed: {message}");
                ctx.events.pod(&stop.pod, Some(stop.field.clone()), Level::Warning, "FailedPreStopHook", message);
            },
            () = passed(&mut stop.deadline, Instant::now()) => {}
            () = ended(&mut stop.done) => return,
        }
    }
    let signal = signal_number(lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()));
    if let Err(error) = ctx.runtime.signal(&stop.target.id, signal).await {
        tracing::debug!(%error, "a container could not be told to stop");
    }
    let at_least = Instant::now() + stop.minimum;
    tokio::select! {
        () = ended(&mut stop.done) => return,
        () = passed(&mut stop.deadline, at_least) => {}
    }
    if let Err(error) = ctx.runtime.signal(&stop.target.id, KILL).await {
        tracing::debug!(%error, "a container could not be killed");
    }
}
