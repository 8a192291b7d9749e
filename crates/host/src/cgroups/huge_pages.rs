//! Huge pages, which a group has none of unless it is given some.

use std::collections::BTreeMap;
use std::fs;

use super::{CgroupError, layout, relative, set};

/// Limits how many bytes of huge pages a group may have, by the kernel's name of their size (`2MB`). Sizes that are not named get none.
/// Where the machine does not count them there is nothing to set.
pub fn limit_huge_pages(cgroup: &str, limits: &BTreeMap<String, u64>) -> Result<(), CgroupError> {
    let Some(hierarchy) = layout()?.hierarchy("hugetlb") else { return Ok(()) };
    let folder = hierarchy.mount.join(relative(cgroup)?);
    let suffix = if hierarchy.unified { ".max" } else { ".limit_in_bytes" };
    let files = fs::read_dir(&folder).map_err(|source| CgroupError::Read { path: folder.clone(), source })?;
    for file in files.filter_map(Result::ok) {
        // What is reserved (`hugetlb.2MB.rsvd.max`) counts as well as what is used.
        let name = file.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(suffix));
        let Some(size) = size.map(|size| size.strip_suffix(".rsvd").unwrap_or(size)) else { continue };
        set(&file.path(), &limits.get(size).copied().unwrap_or(0).to_string())?;
    }
    Ok(())
}
