//! One line for each part as it comes up.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Where the lines go.
#[derive(Clone)]
pub(crate) struct Report {
    begun: Instant,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl Report {
    pub(crate) fn to_stdout(begun: Instant) -> Self {
        Report { begun, out: Arc::new(Mutex::new(std::io::stdout())) }
    }

    /// For parts that run beneath something else.
    pub(crate) fn silent(begun: Instant) -> Self {
        Report { begun, out: Arc::new(Mutex::new(std::io::sink())) }
    }

    /// `api         https://127.0.0.1:6443`
    pub(crate) fn part(&self, name: &str, what: &str) {
        self.line(&format!("{name:<12}{what}"));
    }

    pub(crate) fn ready(&self, kubeconfig: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.line(&format!("ready in {seconds:.2} s: export KUBECONFIG={kubeconfig}"));
    }

    fn line(&self, text: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever read it may be gone; that is no reason to end.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
