//! Which programs a cgroup or a link has. aya asks that for some kinds of programs, and not for these.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for BPF_PROG_QUERY")]

use crate::links::number;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BPF_PROG_QUERY: libc::c_long = 16;
/// Programs that one hook of a cgroup may have (`BPF_CGROUP_MAX_PROGS`).
const MOST: usize = 64;

/// `union bpf_attr`, as `BPF_PROG_QUERY` has it.
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    zero: u32,
}

/// Where programs are attached.
pub(crate) enum Target<'a> {
    /// To a cgroup itself.
    Cgroup(&'a File),
    /// To a link of the calling thread's network namespace.
    Link(&'a str),
}

/// Ids of the programs of one kind that are attached; none to a link that is not there.
pub(crate) fn attached(target: &Target<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let target = match target {
        Target::Cgroup(cgroup) => cgroup.as_raw_fd() as u32,
        Target::Link(name) => {
            let Some(index) = number(name) else { return Ok(Vec::new()) };
            index
        }
    };
    let mut ids = [0u32; MOST];
    let mut query = Query {
        target,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        zero: 0,
    };
    // SAFETY: the kernel reads and writes `query`, whose size it is told, and at most `count` ids, for which `ids` has
    // room; both outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}
