//! emptyDir volumes.

/// What holds an emptyDir's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmptyDirMedium {
    /// A folder on disk.
    Disk,
    /// A tmpfs of its own.
    Memory,
    /// Huge pages, of any or of one size.
    HugePages,
    /// Something that Kubernetes does not know.
    Unknown(String),
}

/// Reads `emptyDir.medium`.
pub fn empty_dir_medium(medium: Option<&str>) -> EmptyDirMedium {
    match medium.unwrap_or_default() {
        "" => EmptyDirMedium::Disk,
        "Memory" => EmptyDirMedium::Memory,
        other if other.starts_with("HugePages") => EmptyDirMedium::HugePages,
        other => EmptyDirMedium::Unknown(other.to_owned()),
    }
}

/// How many bytes a memory-backed emptyDir may hold: the smallest of the node's allocatable memory, the pod's memory limit and
/// the volume's own limit. Zero means "no limit" in each of them, as the kubelet reads it.
pub fn memory_size(size_limit: Option<u64>, pod_memory_limit: Option<u64>, node_allocatable: u64) -> u64 {
    [pod_memory_limit, size_limit]
        .into_iter()
        .flatten()
        .filter(|limit| *limit > 0)
        .fold(node_allocatable, |size, limit| if size == 0 { limit } else { size.min(limit) })
}
