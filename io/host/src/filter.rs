//! The default system call filter: a deny list of what a container has no business with and the kernel would not refuse
//! by capabilities alone, after containerd's default profile. Everything else is the capabilities' matter.

use libc::sock_filter;
use rustix::thread::CapabilitySet;

/// Refused always (EPERM).
const DENIED: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_lookup_dcookie,
];

/// Refused to a container without the capability.
const GUARDED: &[(CapabilitySet, &[libc::c_long])] = &[
    (
        CapabilitySet::SYS_ADMIN,
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_quotactl,
        ],
    ),
    (CapabilitySet::BPF, &[libc::SYS_bpf]),
    (CapabilitySet::PERFMON, &[libc::SYS_perf_event_open]),
    (CapabilitySet::SYSLOG, &[libc::SYS_syslog]),
    (CapabilitySet::DAC_READ_SEARCH, &[libc::SYS_open_by_handle_at]),
    (CapabilitySet::SYS_MODULE, &[libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module]),
    (CapabilitySet::SYS_PTRACE, &[libc::SYS_kcmp]),
    (CapabilitySet::SYS_NICE, &[libc::SYS_move_pages]),
];

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
/// `linux/audit.h`.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// No filter for other machines.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;

/// System calls from this number on are the x32 ABI's on x86-64.
const X32: u32 = 0x4000_0000;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The namespaces that `clone` may not make without CAP_SYS_ADMIN.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn answer(what: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, what)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// `then` and `otherwise`: instructions to skip.
fn test(operator: u32, k: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | operator | libc::BPF_K) as u16, jt: then, jf: otherwise, k }
}

/// The filter for a container with these capabilities.
pub(crate) fn program(capabilities: CapabilitySet) -> Vec<sock_filter> {
    let mut denied = DENIED.to_vec();
    for (capability, calls) in GUARDED {
        if !capabilities.contains(*capability) {
            denied.extend_from_slice(calls);
        }
    }
    let mut program = vec![
        load(ARCH),
        test(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        // A program for another architecture than the machine's: what it calls cannot be told by number.
        answer(DENY),
        load(NUMBER),
        test(libc::BPF_JGE, X32, 0, 1),
        answer(MISSING),
    ];
    for call in denied {
        program.extend([test(libc::BPF_JEQ, call as u32, 0, 1), answer(DENY)]);
    }
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        program.extend([
            // clone3's flags lie in memory, out of the filter's reach: "not there" makes libraries use clone.
            test(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
            answer(MISSING),
            test(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 3),
            load(FIRST_ARGUMENT),
            test(libc::BPF_JSET, NAMESPACES, 0, 1),
            answer(DENY),
        ]);
    }
    program.push(answer(ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does.
    fn run(program: &[sock_filter], arch: u32, number: u32, first: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let instruction = &program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            let code = u32::from(instruction.code);
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                accumulator = match instruction.k {
                    NUMBER => number,
                    ARCH => arch,
                    FIRST_ARGUMENT => first,
                    other => panic!("loads {other}"),
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return instruction.k;
            } else {
                at += match code & 0xf0 {
                    libc::BPF_JEQ => jump(accumulator == instruction.k),
                    libc::BPF_JGE => jump(accumulator >= instruction.k),
                    libc::BPF_JSET => jump(accumulator & instruction.k != 0),
                    other => panic!("operator {other}"),
                };
            }
        }
    }

    #[test]
    fn each_call_meets_its_fate() {
        let plain = program(CapabilitySet::empty());
        let admin = program(CapabilitySet::SYS_ADMIN);
        let user = libc::CLONE_NEWUSER as u32;
        for (number, first, expected, as_admin) in [
            (libc::SYS_read, 0, ALLOW, ALLOW),
            (libc::SYS_execve, 0, ALLOW, ALLOW),
            (libc::SYS_capset, 0, ALLOW, ALLOW),
            (libc::SYS_keyctl, 0, DENY, DENY),
            (libc::SYS_mount, 0, DENY, ALLOW),
            (libc::SYS_unshare, 0, DENY, ALLOW),
            (libc::SYS_bpf, 0, DENY, DENY),
            (libc::SYS_clone, libc::SIGCHLD as u32, ALLOW, ALLOW),
            (libc::SYS_clone, user | libc::SIGCHLD as u32, DENY, ALLOW),
            (libc::SYS_clone3, 0, MISSING, ALLOW),
        ] {
            assert_eq!(run(&plain, ARCHITECTURE, number as u32, first), expected, "call {number}");
            assert_eq!(run(&admin, ARCHITECTURE, number as u32, first), as_admin, "call {number} as admin");
        }
        assert_eq!(run(&plain, ARCHITECTURE ^ 1, libc::SYS_read as u32, 0), DENY);
        assert_eq!(run(&plain, ARCHITECTURE, X32 | 1, 0), MISSING);
    }
}
