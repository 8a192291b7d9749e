//! What the files of a pod's volumes contain and how its containers mount them: computed from objects that were fetched before,
//! with the kubelet's rules and messages. Nothing here reads a disk or a network.

mod claims;
mod downward;
mod empty_dir;
mod host_path;
mod mounts;
mod payload;
mod projected;
mod references;
mod token;
mod trust_bundles;

pub use claims::{
    BoundVolume, BoundVolumeError, ClaimError, ClaimReference, PersistentSource, bound_name, bound_volume, check_bound_volume,
    claim_reference, joined_options, nfs_source,
};
pub use downward::{FieldError, ResourceValue, downward_api_payload, format_map, metadata_field};
pub use empty_dir::{EmptyDirMedium, HugePagesError, empty_dir_medium, huge_page_size, memory_size};
pub use host_path::{FileKind, HostPathError, HostPathStep, check_host_path, host_path_without_backsteps};
pub use mounts::{MountError, Propagation, absolute_mount_path, nested_mount_points, propagation, recursive_read_only, sub_path};
pub use payload::{FileProjection, Payload, PayloadError, config_map_payload, secret_payload, validate_payload_path};
pub use projected::{Sources, projected_payload};
pub use references::{
    TokenReference, VolumeReferences, fs_group, fs_group_on_root_mismatch, fs_user, holds_secrets, image_volumes, used_volumes,
    volume_references, volume_type,
};
pub use token::token_needs_refresh;
pub use trust_bundles::TrustBundles;

#[cfg(test)]
mod tests;
