//! emptyDir volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::resources::hugepage_size;

/// What holds an emptyDir's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmptyDirMedium {
    /// A folder on disk.
    Disk,
    /// A tmpfs of its own.
    Memory,
    /// Huge pages, of this size as text (`2Mi`), or of the one that the pod asks for.
    HugePages(Option<String>),
    /// Something that Kubernetes does not know.
    Unknown(String),
}

/// Reads `emptyDir.medium`.
pub fn empty_dir_medium(medium: Option<&str>) -> EmptyDirMedium {
    match medium.unwrap_or_default() {
        "" => EmptyDirMedium::Disk,
        "Memory" => EmptyDirMedium::Memory,
        "HugePages" => EmptyDirMedium::HugePages(None),
        other => match other.strip_prefix("HugePages-") {
            Some(size) => EmptyDirMedium::HugePages(Some(size.to_owned())),
            None => EmptyDirMedium::Unknown(other.to_owned()),
        },
    }
}

/// Why it is not known which huge pages an emptyDir is made of, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HugePagesError {
    /// The pod asks for pages of several sizes.
    #[error("medium: HugePages can't be used if container requests multiple huge page sizes")]
    SeveralSizes,
    /// It asks for none, or for none of this size.
    #[error("medium {medium}: hugePages storage requested, but there is no resource request for huge pages")]
    NoRequest {
        /// The volume's medium.
        medium: String,
    },
}

/// The size in bytes of the pages that an emptyDir with the medium [`EmptyDirMedium::HugePages`] is made of: `size`, if a container or the
/// pod asks for such pages, else the only one that is asked for.
///
/// # Errors
/// No size, or more than one, fits.
pub fn huge_page_size(pod: &Pod, size: Option<&str>) -> Result<u64, HugePagesError> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let of_containers = containers.filter_map(|container| container.resources.as_ref());
    let all = of_containers.chain(spec.and_then(|spec| spec.resources.as_ref()));
    // Limits and requests are the same; a static pod may have the limits only.
    let names =
        all.flat_map(|resources| resources.requests.iter().flatten().chain(resources.limits.iter().flatten())).map(|(name, _)| name);
    let asked: BTreeSet<u64> = names.filter_map(|name| hugepage_size(name)).collect();
    let mut fitting = match size {
        None => asked.into_iter().collect::<Vec<_>>(),
        Some(size) => hugepage_size(&format!("hugepages-{size}")).filter(|size| asked.contains(size)).into_iter().collect(),
    };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(size), true) => Ok(size),
        (Some(_), false) => Err(HugePagesError::SeveralSizes),
        (None, _) => {
            Err(HugePagesError::NoRequest { medium: size.map_or_else(|| "HugePages".to_owned(), |size| format!("HugePages-{size}")) })
        }
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
