//! What is asked of a Pod from outside, as API server and node say it to each other: logs, exec, attach.

use sealane_api::Status;

/// What of a log is wanted (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Container name; "" where the Pod has one.
    pub container: String,
    /// Stay and send what comes.
    pub follow: bool,
    /// The container's last incarnation.
    pub previous: bool,
    /// Every line begins with its time.
    pub timestamps: bool,
    /// Last lines alone.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Lines since, seconds before now.
    pub since_seconds: Option<i64>,
    /// Lines since, RFC 3339.
    pub since_time: Option<String>,
}

/// What is to be run, or attached to where `command` is empty (`PodExecOptions`, `PodAttachOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Container name; "" where the Pod has one.
    pub container: String,
    /// Program and arguments; empty: attach to the container's own process.
    pub command: Vec<String>,
    /// A terminal is wanted.
    pub tty: bool,
    /// Input is wanted.
    pub stdin: bool,
    /// Output is wanted.
    pub stdout: bool,
    /// Errors are wanted (never with a terminal).
    pub stderr: bool,
}

/// Why a node did not do it; the messages are kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No such Pod or container here (404).
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense (400).
    #[error("{0}")]
    BadRequest(String),
    /// The node failed (500).
    #[error("{0}")]
    Failed(String),
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Status {
        match error {
            NodeError::NotFound(message) => Status::new(404, "NotFound", message),
            NodeError::BadRequest(message) => Status::bad_request(message),
            NodeError::Failed(message) => Status::new(500, "InternalError", message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_answers_with_their_message() {
        for (error, code, reason) in [
            (NodeError::NotFound("m".into()), 404, "NotFound"),
            (NodeError::BadRequest("m".into()), 400, "BadRequest"),
            (NodeError::Failed("m".into()), 500, "InternalError"),
        ] {
            let status = Status::from(error);
            assert_eq!((status.code, status.reason, &*status.message), (code, reason, "m"));
        }
    }
}
