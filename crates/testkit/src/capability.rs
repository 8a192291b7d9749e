//! What a machine may not be able to do: such a test is skipped with the missing capability named, and fails where
//! `KUBE_PET_NO_SKIP` is set, so that nothing is skipped unnoticed.

/// Whether the test may go on. `have` says whether the machine can do it, `what` names it.
///
/// # Panics
/// When the machine cannot and `KUBE_PET_NO_SKIP` is set.
pub fn available(what: &str, have: bool) -> bool {
    if !have {
        assert!(std::env::var_os("KUBE_PET_NO_SKIP").is_none(), "this machine lacks {what}");
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: this machine lacks {what}");
    }
    have
}

/// Whether the test runs as root.
pub fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    available("root", std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0))
}
