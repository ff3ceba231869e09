//! The proxy's own HTTP servers: :10256 for health, :10249 for metrics.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sealane_dataplane::{Answerer, Metrics, Serving, http_listener, serve_http};
use sealane_proxy::config::Config;
use sealane_proxy::health::{Answer, HealthChecks};
use tokio::sync::watch;

use crate::sinks::Choice;

/// Before an address that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What answers are made of.
pub(super) struct State {
    configs: watch::Receiver<Arc<Config>>,
    choice: Choice,
    metrics: Arc<Metrics>,
    /// The Node is known and stays.
    eligible: AtomicBool,
    checks: Mutex<HealthChecks>,
}

impl State {
    pub(super) fn new(configs: watch::Receiver<Arc<Config>>, choice: Choice, metrics: Arc<Metrics>) -> Self {
        Self { configs, choice, metrics, eligible: AtomicBool::new(false), checks: Mutex::default() }
    }

    fn config(&self) -> Arc<Config> {
        self.configs.borrow().clone()
    }

    pub(super) fn set_eligible(&self, eligible: bool) {
        self.eligible.store(eligible, Ordering::Relaxed);
    }

    pub(super) fn checks(&self) -> MutexGuard<'_, HealthChecks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a Service's health check is told.
    pub(super) fn check(&self, listener: SocketAddr) -> Answer {
        let healthy = self.metrics.progress().healthy(self.config().sync_period, Timestamp::now());
        self.checks().answer(listener, healthy)
    }

    fn health(&self, path: &str) -> Answer {
        let (period, now) = (self.config().sync_period, Timestamp::now());
        let live = path == "/livez";
        let answer = match path {
            "/healthz" => self.metrics.progress().healthz(period, self.eligible.load(Ordering::Relaxed), now),
            "/livez" => self.metrics.progress().livez(period, now),
            _ => return Answer::not_found(),
        };
        self.metrics.checked(live, answer.status);
        answer
    }

    fn metrics(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {
                let mut answer = Answer::text(self.metrics.render());
                answer.headers =
                    vec![("Content-Type", "text/plain; version=0.0.4; charset=utf-8".to_owned())];
                answer
            }
            "/proxyMode" => Answer::text(self.choice.in_force().to_string()),
            "/configz" => Answer::json(200, self.config().configz()),
            "/healthz" => Answer::text("ok"),
            _ => Answer::not_found(),
        }
    }
}

/// Serves health and metrics; comes with the reason where an address is taken and that is the end.
pub(super) async fn serve(config: &Config, state: &Arc<State>) -> String {
    let (health, metrics) = (Arc::clone(state), Arc::clone(state));
    let mut due: Vec<(&str, SocketAddr, Answerer)> = Vec::new();
    if let Some(address) = config.healthz {
        due.push(("healthzBindAddress", address, Arc::new(move |path| health.health(path))));
    }
    if let Some(address) = config.metrics {
        due.push(("metricsBindAddress", address, Arc::new(move |path| metrics.metrics(path))));
    }
    let mut servers: Vec<Serving> = Vec::new();
    loop {
        let mut left = Vec::new();
        for (field, address, answer) in due {
            match http_listener(address, false) {
                Ok(listener) => servers.push(serve_http(listener, answer)),
                Err(error) if config.bind_hard_fail => return format!("proxy: {field} {address}: {error}"),
                Err(error) => {
                    tracing::warn!("{field} {address}: {error}; trying again every {AGAIN:?}");
                    left.push((field, address, answer));
                }
            }
        }
        if left.is_empty() {
            return std::future::pending().await;
        }
        due = left;
        tokio::time::sleep(AGAIN).await;
    }
}
