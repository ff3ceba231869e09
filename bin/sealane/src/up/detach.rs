//! `sealane up --detach` and `sealane down`.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{files, shown};
use crate::config::{UpConfig, data_dir};

/// How long `down` waits before it kills.
const PATIENCE: Duration = Duration::from_secs(15);

/// Starts this program again without `--detach`, in a session of its own, and shows its lines until it is ready.
pub(crate) fn start(config: &UpConfig) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("--detach: {e}");
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|e| format!("--data-dir {}: {e}; give one that can be written", shown(&config.data_dir)))?;
    let log = config.data_dir.join("up.log");
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| format!("{}: {e}", shown(&log)))?;
    let from = errors.metadata().map_err(fail)?.len();
    let mut command = Command::new(std::env::current_exe().map_err(fail)?);
    command.args(std::env::args_os().skip(1).filter(|a| a != "--detach"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
    let mut child = command.spawn().map_err(fail)?;
    let lines = BufReader::new(child.stdout.take().ok_or("--detach: no output")?).lines();
    for line in lines.map_while(Result::ok) {
        println!("{line}");
        if line.starts_with("ready in ") {
            return Ok(());
        }
    }
    let _ = child.wait();
    let text = std::fs::read(&log).unwrap_or_default();
    let own = String::from_utf8_lossy(text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default())
        .into_owned();
    let last = own.lines().last().unwrap_or("it ended without a word");
    Err(last.strip_prefix("sealane: ").unwrap_or(last).to_owned())
}

/// Ends the `up` of a data directory.
pub(crate) fn down(dir: Option<&Path>) -> Result<(), String> {
    let dir = data_dir(dir)?;
    let Some(pid) = files::holder(&dir) else {
        println!("nothing runs on {}", shown(&dir));
        return Ok(());
    };
    let process = Pid::from_raw(pid).ok_or_else(|| format!("{}: {pid} is no process", shown(&dir)))?;
    let signal = |signal| match rustix::process::kill_process(process, signal) {
        Err(e) if e != rustix::io::Errno::SRCH => Err(format!("process {pid}: {e}")),
        _ => Ok(()),
    };
    signal(Signal::TERM)?;
    let begun = Instant::now();
    while files::holder(&dir).is_some() {
        if begun.elapsed() > PATIENCE {
            signal(Signal::KILL)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("stopped");
    Ok(())
}
