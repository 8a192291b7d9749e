//! What the kernel has logged since the machine was started.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// More than a record of `/dev/kmsg` has.
const RECORD: usize = 8192;

/// Whether the kernel has told that it killed a process for want of memory in a cgroup whose path has this in it: its line stays when the
/// cgroup, and the counter in it, is gone. It may be missing: the kernel tells of ten kills in five seconds, and forgets old lines.
/// Takes milliseconds.
///
/// # Errors
/// The log cannot be read (no `/dev/kmsg`, or no right to).
pub fn tells_of_oom_kill(cgroup: &str) -> io::Result<bool> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    let mut record = vec![0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(0) => return Ok(false),
            Ok(length) if is_oom_kill(&String::from_utf8_lossy(record.get(..length).unwrap_or_default()), cgroup) => return Ok(true),
            // The next one was overwritten meanwhile: there is a newer one.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `dump_oom_summary` and `mem_cgroup_print_oom_context` of the kernel, since 5.0.
fn is_oom_kill(record: &str, cgroup: &str) -> bool {
    let message = record.split_once(';').map_or(record, |(_, message)| message);
    let fields = message.strip_prefix("oom-kill:").unwrap_or_default().split(',');
    fields.filter_map(|field| field.strip_prefix("task_memcg=")).any(|path| path.contains(cgroup))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_a_kill_names_its_victim() {
        let kill = "6,2113,52013926874,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-f41f,mems_allowed=0,\
                    oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/libpod-a0c3,task=tail,pid=7,uid=0\n SUBSYSTEM=x\n";
        assert!(is_oom_kill(kill, "a0c3"));
        for other in ["f41f", "b1"] {
            assert!(!is_oom_kill(kill, other), "{other}");
        }
        assert!(!is_oom_kill("6,1,1,-;veth of libpod-a0c3 is up", "a0c3") && !is_oom_kill("", "a0c3"));
    }

    #[test]
    fn the_log_is_read_to_its_end() {
        let told = tells_of_oom_kill("a cgroup of no process");
        if kube_pet_testkit::capability::available("/dev/kmsg", told.is_ok()) {
            assert!(!told.unwrap());
        }
    }
}
