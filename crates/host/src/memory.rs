//! The process's own memory.

use std::fs;
use std::ops::Range;

/// Makes the allocator keep less (glibc's `mallopt`; without effect with other C libraries): one heap for all threads in place of one each,
/// of which none can use what another one has free, and large pieces as mappings of their own, which go back whole. The agent waits for far
/// more than it computes, so its threads seldom meet in the allocator. To be called before there are threads.
#[allow(unsafe_code, reason = "calls into the C library")]
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: they only set the allocator's parameters.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Gives memory back that the allocator keeps for later (glibc's `malloc_trim`); without effect with other C libraries. A burst of
/// pods leaves megabytes of it, in pieces that glibc does not return by itself. Takes milliseconds.
#[allow(unsafe_code, reason = "a call into the C library")]
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only touches what is free, under the allocator's own locks; any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the program's code in memory, of which a start and a burst have used much that nothing uses later: what is needed is mapped
/// again when it is, without reading, as long as the kernel keeps it in its page cache. There it is the first to go when memory is short. Without
/// effect where the mappings cannot be read (no `/proc`).
#[allow(unsafe_code, reason = "advice on a mapping by its address")]
pub fn let_go_of_code() {
    let Some(code) = fs::read_to_string("/proc/self/maps").ok().and_then(|maps| mapping_of(trim as *const () as usize, &maps)) else {
        return;
    };
    // SAFETY: these are whole pages of a mapping that this process can only read and execute, so none differs from the file: the program's
    // own, which the kernel lets nobody write to while it runs, and which is still there when it has been replaced by its name.
    unsafe {
        libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED);
    }
}

/// The mapping with this address, of a file, for reading and executing only (`man 5 proc_pid_maps`).
fn mapping_of(address: usize, maps: &str) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, access, file) = (words.next()?, words.next()?, words.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        (range.contains(&address) && access == "r-xp" && file.starts_with('/')).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_a_file_is_let_go_of() {
        let maps = "\
            55d580cd0000-55d5811c7000 r--p 00000000 fe:00 9978097                    /usr/bin/kube-pet\n\
            55d5811c7000-55d582659000 r-xp 004f6000 fe:00 9978097                    /usr/bin/kube-pet (deleted)\n\
            55d582659000-55d5826df000 rwxp 01987000 fe:00 9978097                    /usr/bin/kube-pet\n\
            7ffd1c5f4000-7ffd1c5f8000 r-xp 00000000 00:00 0 \n\
            7ffd1c5f8000-7ffd1c5fa000 r-xp 00000000 00:00 0                          [vdso]\n";
        assert_eq!(mapping_of(0x55d5811c7000, maps), Some(0x55d5811c7000..0x55d582659000));
        for other in [0x55d580cd0000, 0x55d582659000, 0x7ffd1c5f4000, 0x7ffd1c5f8000, 1] {
            assert_eq!(mapping_of(other, maps), None, "{other:x}");
        }
    }

    #[test]
    fn code_goes_on_after_it_was_let_go_of() {
        let mapped = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            let start = format!("{:x}-", mapping_of(trim as *const () as usize, &maps).unwrap().start);
            let rss = smaps.lines().skip_while(|line| !line.starts_with(&start)).find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = mapped();
        let_go_of_code();
        let after = mapped();
        assert!(after < before, "{before} kB before, {after} kB after");
    }
}
