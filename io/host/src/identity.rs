//! Who a container's process is and what it may do: capabilities, user and groups, the system call filter.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::runtime::{ContainerSpec, Identity};
use crate::sys;

/// Capability names by number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd gives a container (containerd `pkg/oci/spec.go`, `defaultUnixCaps`).
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The capabilities of a container. Unknown names are an error, as in a container runtime.
pub(crate) fn capabilities(spec: &ContainerSpec) -> Result<CapabilitySet, String> {
    if spec.privileged {
        return Ok(all());
    }
    let lists = |names: &[String]| -> Result<CapabilitySet, String> {
        names.iter().try_fold(CapabilitySet::empty(), |set, name| Ok(set | by_name(name)?))
    };
    // `drop: [ALL]` with `add: [X]` leaves X; `add: [ALL]` with `drop: [X]` all but X (containerd's order).
    let names_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let base = if names_all(&spec.add_capabilities) {
        all()
    } else if names_all(&spec.drop_capabilities) {
        CapabilitySet::empty()
    } else {
        DEFAULT
    };
    let named = |names: &[String]| {
        let names: Vec<String> =
            names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")).cloned().collect();
        lists(&names)
    };
    Ok((base | named(&spec.add_capabilities)?) - named(&spec.drop_capabilities)?)
}

fn all() -> CapabilitySet {
    CapabilitySet::from_bits_retain((1 << NAMES.len()) - 1)
}

fn by_name(name: &str) -> Result<CapabilitySet, String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let number = NAMES.iter().position(|known| *known == short);
    number
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .ok_or_else(|| format!("unknown capability \"{name}\""))
}

/// The step of becoming somebody that failed, and why.
pub(crate) type Refused = (&'static str, io::Error);

/// Gives the calling process the container's capabilities, user and groups; the last step before exec. What the
/// process does not have itself cannot be given: that is left out.
pub(crate) fn become_container(
    identity: &Identity,
    wanted: CapabilitySet,
    no_new_privileges: bool,
    filtered: bool,
) -> Result<(), Refused> {
    let own = rustix::thread::capabilities(None).map_err(refused("read the capabilities"))?;
    let kept = wanted & own.permitted;
    for number in 0..NAMES.len() {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !wanted.contains(one) {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // Newer names than the kernel's.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(("drop a capability", error.into())),
            }
        }
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(refused("set no_new_privs"))?;
    }
    if filtered {
        match sys::install_filter(&crate::filter::program(wanted)) {
            // Kernels without CONFIG_SECCOMP_FILTER.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                return Err(("install the system call filter", error));
            }
            _ => {}
        }
    }
    become_user(identity)?;
    if identity.uid == 0 {
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map_err(refused("set the capabilities"))?;
    }
    Ok(())
}

fn become_user(identity: &Identity) -> Result<(), Refused> {
    let groups: Vec<Gid> = identity.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // A user namespace with one id alone: there are no other groups to give up or take.
        Err(rustix::io::Errno::PERM) if groups.iter().all(|group| group.as_raw() == identity.gid) => {}
        result => result.map_err(refused("set the supplementary groups"))?,
    }
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(refused("set the group"))?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(refused("set the user"))
}

fn refused(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Refused {
    move |error| (step, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::tests::container;

    #[test]
    fn capabilities_are_added_and_dropped_by_name() {
        let with = |add: &[&str], drop: &[&str]| {
            let strings = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
            let mut spec = container("c");
            spec.add_capabilities = strings(add);
            spec.drop_capabilities = strings(drop);
            capabilities(&spec)
        };
        assert_eq!(with(&[], &[]), Ok(DEFAULT));
        assert_eq!(with(&[], &["ALL"]), Ok(CapabilitySet::empty()));
        assert_eq!(with(&["NET_BIND_SERVICE"], &["ALL"]), Ok(CapabilitySet::NET_BIND_SERVICE));
        assert_eq!(with(&["CAP_NET_ADMIN"], &["all"]), Ok(CapabilitySet::NET_ADMIN));
        assert_eq!(with(&["ALL"], &["SYS_ADMIN"]), Ok(all() - CapabilitySet::SYS_ADMIN));
        assert_eq!(with(&[], &["KILL"]), Ok(DEFAULT - CapabilitySet::KILL));
        assert_eq!(with(&["FLY"], &[]), Err("unknown capability \"FLY\"".to_owned()));
    }
}
