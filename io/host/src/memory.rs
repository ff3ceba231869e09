//! What a process has used and no longer needs goes back to the kernel.

use std::fs;

/// Gives back what is free in the heap; and where most of what the process has is the program itself, unmaps its pages,
/// of which starting needs many more than running: code that runs comes back from the page cache by itself. For after
/// work that comes once in a while: a start, a list of the whole cluster.
pub fn give_back() {
    trim(|share| share.resident > share.own);
}

/// The same, the program's pages whatever else there is: for a process that does little of what it did when it
/// started, and is told by its resident memory.
pub fn give_back_program() {
    trim(|_| true);
}

/// Gives back what is free in the heap alone: some milliseconds, in which whoever asks for memory waits.
pub fn give_back_heap() {
    sys::trim_heap();
}

fn trim(program_too: impl Fn(&Share) -> bool) {
    sys::trim_heap();
    let Ok(program) = fs::read_link("/proc/self/exe") else { return };
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else { return };
    let share = share(&mappings, &program.to_string_lossy());
    if program_too(&share) {
        share.clean.into_iter().for_each(|(start, end)| sys::unmap_pages(start, end));
    }
}

/// What a process's memory consists of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Share {
    /// The private mappings of the program that nobody can write to and in which no page differs from the file: neither
    /// relocated nor patched (a debugger's breakpoint is a page of its own).
    clean: Vec<(usize, usize)>,
    /// What of them is in memory, kB.
    resident: u64,
    /// What no file stands behind, kB.
    own: u64,
}

fn share(smaps: &str, program: &str) -> Share {
    let mut share = Share::default();
    let mut current = None;
    let mut resident = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let second = words.next().unwrap_or_default();
        let size = || second.parse::<u64>().unwrap_or(0);
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).ok();
            // Offset, device and inode stand before the path, which may have spaces.
            let ours = line.split_once('/').is_some_and(|(_, path)| path == program.trim_start_matches('/'));
            let clean = matches!(second, "r--p" | "r-xp") && ours;
            current = number(start).zip(number(end)).filter(|_| clean);
        } else if first == "Rss:" {
            resident = size();
        } else if first == "Anonymous:" {
            share.own += size();
            if let Some(mapping) = current.take().filter(|_| size() == 0) {
                share.clean.push(mapping);
                share.resident += resident;
            }
        }
    }
    share
}

mod sys {
    //! The two calls that have no safe form.

    #[cfg(target_env = "gnu")]
    pub(super) fn trim_heap() {
        // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory alone (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
    }

    #[cfg(not(target_env = "gnu"))]
    pub(super) fn trim_heap() {}

    /// `start..end` is a private mapping of a file, read-only, without a page that differs from the file.
    pub(super) fn unmap_pages(start: usize, end: usize) {
        // SAFETY: by the contract above the next access reads the same octets from the file again. A mapping that has
        // gone meanwhile, or is another one by now, could not be told, but nothing unmaps the program while it runs; an
        // error changes nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f00-7f10 r--p 00000000 fe:00 1                    /usr/bin/a b
Rss:                  64 kB
Anonymous:             0 kB
7f10-7f20 r-xp 00010000 fe:00 1                    /usr/bin/a b
Rss:                  32 kB
Anonymous:             0 kB
7f20-7f30 r--p 00020000 fe:00 1                    /usr/bin/a b
Rss:                  16 kB
Anonymous:            16 kB
7f30-7f40 rw-p 00020000 fe:00 1                    /usr/bin/a b
Anonymous:             0 kB
7f40-7f50 r-xp 00000000 fe:00 1                    /usr/lib/libc.so.6
Anonymous:             0 kB
7f50-7f60 rw-p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_as_in_the_file_is_unmapped() {
        let clean = vec![(0x7f00, 0x7f10), (0x7f10, 0x7f20)];
        assert_eq!(share(SMAPS, "/usr/bin/a b"), Share { clean, resident: 96, own: 16 });
        assert_eq!(share(SMAPS, "/usr/bin/a"), Share { own: 16, ..Share::default() });
    }

    #[test]
    fn the_program_runs_on_with_less() {
        let kept: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let now = || {
            let program = fs::read_link("/proc/self/exe").expect("a path");
            share(&fs::read_to_string("/proc/self/smaps").expect("smaps"), &program.to_string_lossy())
        };
        let before = now();
        assert!(!before.clean.is_empty());
        sys::trim_heap();
        before.clean.iter().for_each(|(start, end)| sys::unmap_pages(*start, *end));
        assert!(now().resident < before.resident);
        assert!(kept.iter().enumerate().all(|(n, text)| *text == n.to_string()));
    }
}
