//! Where the bench's threads and the programs that it measures run, and before whom.

use std::num::NonZeroU64;
use std::process::Command;

use rustix::process::Pid;

use crate::Result;

/// The measured program's core, and that of whoever asks it.
pub(crate) const CORES: [&str; 2] = ["0", "1"];
/// How nice a thread is that runs before whatever else this machine does.
pub(crate) const BEFORE_OTHERS: i32 = -15;
/// µs of one tick of /proc's CPU times: USER_HZ is 100 on every architecture that Sealane is built for.
const TICK: f64 = 10_000.0;

/// This thread is on a core from now on.
pub(crate) fn on_core(core: &str) -> Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core.parse()?);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}

/// The same, before whatever else this machine does.
pub(crate) fn first_on(core: &str) -> Result<()> {
    on_core(core)?;
    Ok(rustix::process::setpriority_process(None, BEFORE_OTHERS)?)
}

/// The same, even before who runs there already, whom the ordinary scheduler lets go on for a part of a millisecond;
/// and sleeps are as short as they say.
pub(crate) fn at_once_on(core: &str) -> Result<()> {
    on_core(core)?;
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).output();
    let done = done.map_err(|e| format!("chrt (of util-linux): {e}"))?;
    if !done.status.success() {
        return Err(format!("chrt: {}", String::from_utf8_lossy(&done.stderr).trim()).into());
    }
    Ok(rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN))?)
}

/// All threads of a process run before whatever else this machine does.
pub(crate) fn before_others(process: u32) -> Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse()?;
        rustix::process::setpriority_process(Pid::from_raw(thread), BEFORE_OTHERS)?;
    }
    Ok(())
}

/// How long a core has had nothing to do since the machine started, µs, to a tick.
pub(crate) fn idle(core: &str) -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core}");
    let mut lines = stat.lines().map(|line| line.split_ascii_whitespace());
    let fields = lines.find_map(|mut fields| (fields.next() == Some(&name)).then_some(fields));
    // user, nice, system, idle, iowait (proc_stat(5)).
    let fields = fields.ok_or_else(|| format!("no {name} in /proc/stat"))?.skip(3).take(2);
    let ticks = fields.map(str::parse::<f64>).sum::<std::result::Result<f64, _>>()?;
    Ok(ticks * TICK)
}

/// CPU time of a process's threads, or of one, by its `stat` in /proc: in user mode, in the kernel, and the same two of its
/// children that have ended; µs, each to a tick.
pub(crate) fn spent(stat: &str) -> Result<[f64; 4]> {
    let stat = std::fs::read_to_string(stat)?;
    // The name may have spaces; state is the third field, utime, stime, cutime and cstime are 14 to 17 (proc(5)).
    let rest = stat.rsplit_once(") ").ok_or("a process without stat")?.1;
    let fields = rest.split(' ').skip(11).take(4).map(|ticks| Ok(ticks.parse::<f64>()? * TICK));
    let fields: Vec<f64> = fields.collect::<Result<_>>()?;
    fields.try_into().map_err(|_| "a stat with too few fields".into())
}
