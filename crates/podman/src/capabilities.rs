//! What differs between Podman's versions. Podman ignores unknown request fields silently, so a feature that a version
//! lacks does not show as an error: it is looked up here.

use std::fmt;
use std::str::FromStr;

/// A Podman version; a suffix like `-rc1` or `-rhel` is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

impl Version {
    /// `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a Podman version")]
pub struct ParseVersionError(String);

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseVersionError(text.to_owned());
        let numbers = text.trim().trim_start_matches('v');
        let numbers = numbers.split(['-', '+', ' ']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|p| p.parse::<u16>().map_err(|_| bad()));
        let major = parts.next().ok_or_else(bad)??;
        let minor = parts.next().transpose()?.unwrap_or(0);
        let patch = parts.next().transpose()?.unwrap_or(0);
        Ok(Self { major, minor, patch })
    }
}

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident: ($major:literal, $minor:literal, $patch:literal),)*) => {
        /// Features by version. Each field says whether the running service has it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Capabilities {
            /// The version that the table was made for; all zero while the service has not answered yet.
            pub version: Version,
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Capabilities {
            /// The row of the table for `version`.
            #[must_use]
            pub fn for_version(version: Version) -> Self {
                Self {
                    version,
                    $($name: version >= Version::new($major, $minor, $patch),)*
                }
            }
        }
    };
}

capabilities! {
    /// Removal of a container that has just exited does not race (fixed in 4.4).
    removal_after_exit_is_safe: (4, 4, 0),
    /// The event file's rotation does not repeat events (fixed in 4.5).
    events_without_duplicates: (4, 5, 0),
    /// Creating a container of a missing image answers 404, before that 500.
    missing_image_is_404: (4, 8, 0),
    /// `POST /exec/{id}/remove` exists.
    exec_remove: (4, 9, 5),
    /// `State.OOMKilled` can be believed.
    oom_killed_reliable: (5, 0, 0),
    /// `POST /containers/{id}/update` changes what inspect says and survives a restart of the container.
    update_persists: (5, 1, 0),
    /// Limits left out of an update stay as they were; before that they fell back to defaults.
    partial_update: (5, 4, 0),
    /// `SubPath` of a named volume is honoured.
    volume_sub_path: (5, 4, 0),
    /// rlimits of −1 (unlimited) are accepted.
    unlimited_rlimits: (5, 5, 1),
    /// The log API's times have nanoseconds.
    log_timestamps_nanos: (5, 8, 0),
    /// A refused pull has an HTTP status of its own; before that it is 200 with the error in the stream.
    pull_status: (6, 0, 0),
    /// `pullProgress=true` reports bytes.
    pull_progress: (6, 0, 0),
    /// `oci_runtime` in a container's specification is honoured.
    oci_runtime: (6, 0, 0),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_suffix() {
        for (text, want) in [
            ("4.3.1", Version::new(4, 3, 1)),
            ("v5.8.6", Version::new(5, 8, 6)),
            ("6.0.0-rc1", Version::new(6, 0, 0)),
            ("4.9.4-rhel", Version::new(4, 9, 4)),
            ("5.2", Version::new(5, 2, 0)),
        ] {
            assert_eq!(text.parse::<Version>(), Ok(want), "{text}");
        }
        for text in ["", "podman", "5.x", "99999999.1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_follows_the_release_notes() {
        let old = Capabilities::for_version(Version::new(4, 3, 1));
        assert!(!old.oom_killed_reliable && !old.missing_image_is_404 && !old.exec_remove);
        let trixie = Capabilities::for_version(Version::new(5, 4, 2));
        assert!(trixie.oom_killed_reliable && trixie.update_persists && trixie.partial_update);
        assert!(!trixie.unlimited_rlimits && !trixie.pull_status);
        let sid = Capabilities::for_version(Version::new(5, 8, 6));
        assert!(sid.unlimited_rlimits && sid.log_timestamps_nanos && !sid.oci_runtime);
        assert!(Capabilities::for_version(Version::new(6, 0, 0)).oci_runtime);
    }
}
