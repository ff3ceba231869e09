//! `sealane shell`: a command in the network of a running node.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::ShellArgs;
use crate::config::data_dir;
use crate::config::nodes::folder;

/// Becomes the command; returns only where it cannot.
pub(crate) fn run(args: &ShellArgs) -> Result<(), String> {
    let data = data_dir(args.data.data_dir.as_deref())?;
    let node = match &args.node {
        Some(name) => folder(&data, name)?,
        None => data.clone(),
    };
    sealane_host::enter_node(&node).map_err(|e| format!("{e}; is `sealane up` running?"))?;
    let mut words = args.command.iter();
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let program = words.next().unwrap_or(&shell);
    let mut command = Command::new(program);
    command.args(words);
    let kubeconfig = data.join("kubeconfig");
    if std::env::var_os("KUBECONFIG").is_none() && kubeconfig.exists() {
        command.env("KUBECONFIG", kubeconfig);
    }
    Err(format!("{program}: {}", command.exec()))
}
