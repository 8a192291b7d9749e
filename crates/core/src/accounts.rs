//! Users and groups of an image: who a container runs as, and which groups its user belongs to by the image's own files (KEP-3619).
//!
//! Podman looks these up as well, but adds the groups of `/etc/group` if and only if no group is named beside the user. Kubernetes wants
//! them unless the policy is `Strict`, whatever else is named.

use std::collections::BTreeSet;

use crate::security::Effective;

/// What an image says of users: its `/etc/passwd` and `/etc/group`. Either may be missing, and any line may be nonsense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a container's processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups, the primary one among them.
    pub groups: BTreeSet<i64>,
}

/// The image does not say who that is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownAccount {
    /// A user by name.
    #[error("unable to find user {0}: no matching entries in the image's passwd file")]
    User(String),
    /// A group by name.
    #[error("unable to find group {0}: no matching entries in the image's group file")]
    Group(String),
}

/// User and group as Podman is told: `user`, `user:group`; each a name of the image or a number. Empty is root, or whom the image says.
///
/// The pod's `runAsUser` and `runAsGroup` come before the image's; the image's group counts for the image's user only.
pub fn wanted(security: &Effective, image_user: &str) -> String {
    let (user, group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (image_user, None),
    };
    let own_group = security.group.map(|gid| gid.to_string());
    let (user, group) = match security.user {
        Some(uid) => (uid.to_string(), own_group),
        None => (user.to_owned(), own_group.or(group.map(str::to_owned))),
    };
    match (user.as_str(), group) {
        (_, None) => user,
        ("", Some(group)) => format!("0:{group}"),
        (user, Some(group)) => format!("{user}:{group}"),
    }
}

/// Whether Podman's own look-up gives `wanted` other groups than Kubernetes does.
pub fn must_be_resolved(security: &Effective, wanted: &str) -> bool {
    security.strict_groups || wanted.contains(':')
}

impl Accounts {
    /// Reads both files. Lines that make no sense are left out, as by other readers of such files.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(User { name: name.to_owned(), uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        });
        let groups = group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let gid = fields.next()?.parse().ok()?;
            let members = fields.next().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
            Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// Who `wanted` (of [`wanted`]) is. `security` adds `fsGroup` and `supplementalGroups`, and says whether the image's groups count.
    ///
    /// # Errors
    /// A name that the image does not have. A number need not be known to it: such a user has the primary group 0.
    pub fn identity(&self, security: &Effective, wanted: &str) -> Result<Identity, UnknownAccount> {
        let (user, group) = wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let number: Option<u32> = user.parse().ok();
        let known = self.users.iter().find(|known| number.map_or(known.name == user, |uid| known.uid == uid));
        let uid = known.map(|known| known.uid).or(number).ok_or_else(|| UnknownAccount::User(user.to_owned()))?;
        let gid = match group {
            None => known.map_or(0, |known| known.gid),
            Some(group) => {
                let number = group.parse().ok();
                let found = || self.groups.iter().find(|known| known.name == group).map(|known| known.gid);
                number.or_else(found).ok_or_else(|| UnknownAccount::Group(group.to_owned()))?
            }
        };
        let of_image =
            self.groups.iter().filter(|group| !security.strict_groups && known.is_some_and(|known| group.members.contains(&known.name)));
        let groups = security.groups.iter().copied().chain([i64::from(gid)]).chain(of_image.map(|group| i64::from(group.gid)));
        Ok(Identity { uid, gid, groups: groups.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:1000:1000::/:/bin/sh\nbroken:x:one:1::\nother:x:1001:50\n";
    const GROUP: &str = "root:x:0:root\nweb:x:1000:\nstaff:x:50000:other, web\nbroken:x\nempty:x:60001\nwheel:x:10:root\n";

    fn security(user: Option<i64>, group: Option<i64>, groups: &[i64], strict_groups: bool) -> Effective {
        Effective { user, group, groups: groups.to_vec(), strict_groups, ..Effective::default() }
    }

    fn resolve(security: &Effective, image_user: &str) -> Result<(u32, u32, Vec<i64>), String> {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let identity = accounts.identity(security, &wanted(security, image_user)).map_err(|error| error.to_string())?;
        Ok((identity.uid, identity.gid, identity.groups.into_iter().collect()))
    }

    #[test]
    fn the_pods_user_comes_before_the_images_and_takes_no_group_of_its() {
        for (user, group, image, expected) in [
            (None, None, "", ""),
            (None, None, "web:staff", "web:staff"),
            (None, None, "web:", "web"),
            (None, Some(7), "", "0:7"),
            (None, Some(7), "web:staff", "web:7"),
            (Some(1000), None, "web:staff", "1000"),
            (Some(1000), Some(7), "web", "1000:7"),
        ] {
            assert_eq!(wanted(&security(user, group, &[], false), image), expected, "{user:?} {group:?} {image}");
        }
    }

    #[test]
    fn groups_of_the_image_count_unless_the_policy_is_strict() {
        let merge = security(Some(1000), None, &[60000], false);
        assert_eq!(resolve(&merge, ""), Ok((1000, 1000, vec![1000, 50000, 60000])));
        let strict = Effective { strict_groups: true, ..merge.clone() };
        assert_eq!(resolve(&strict, ""), Ok((1000, 1000, vec![1000, 60000])));
        // A group of the pod's own does not take them away.
        assert_eq!(resolve(&Effective { group: Some(7), ..merge }, ""), Ok((1000, 7, vec![7, 50000, 60000])));
        assert_eq!(resolve(&security(None, None, &[], false), "web"), Ok((1000, 1000, vec![1000, 50000])));
        assert_eq!(resolve(&security(None, None, &[], true), ""), Ok((0, 0, vec![0])));
        assert_eq!(resolve(&security(None, None, &[], false), ""), Ok((0, 0, vec![0, 10])));
    }

    #[test]
    fn numbers_need_not_be_known_and_names_must() {
        let none = security(None, None, &[], false);
        assert_eq!(resolve(&none, "4711"), Ok((4711, 0, vec![0])));
        assert_eq!(resolve(&none, "other:staff"), Ok((1001, 50000, vec![50000])));
        assert_eq!(resolve(&none, "broken"), Err("unable to find user broken: no matching entries in the image's passwd file".into()));
        assert_eq!(resolve(&none, "web:nobody"), Err("unable to find group nobody: no matching entries in the image's group file".into()));
    }

    #[test]
    fn only_what_podman_would_do_differently_is_looked_up() {
        for (strict, wanted, expected) in
            [(false, "web", false), (false, "", false), (false, "web:7", true), (true, "web", true), (true, "", true)]
        {
            assert_eq!(must_be_resolved(&security(None, None, &[], strict), wanted), expected, "{strict} {wanted}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_files_are_read(passwd in "([a-c0-9:,\n ]|\\PC){0,60}", group in "([a-c0-9:,\n ]|\\PC){0,60}", user in "[a-c0-9:]{0,6}") {
            let _ = Accounts::parse(&passwd, &group).identity(&Effective::default(), &user);
        }
    }
}
