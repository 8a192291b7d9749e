//! What all users share, and how much of it one of them may take: nobody can use up the node's API for the others.
//!
//! The API server is one user for everything that passes through it, so a user's part is large.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A number of things (connections, forwarded connections) that users hold.
pub(super) struct Quota {
    total: usize,
    per_user: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    /// Users that hold something; never empty-handed ones.
    users: HashMap<String, usize>,
}

impl Quota {
    /// At most `total` together, and at most `per_user` for each user.
    pub(super) fn new(total: usize, per_user: usize) -> Arc<Self> {
        Arc::new(Self { total, per_user, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for `user`, until it is dropped. None: there is no more for this user, or for anybody.
    pub(super) fn take(self: &Arc<Self>, user: &str) -> Option<Share> {
        let mut taken = self.lock();
        let held = taken.users.get(user).copied().unwrap_or(0);
        if taken.total >= self.total || held >= self.per_user {
            return None;
        }
        taken.total += 1;
        taken.users.insert(user.to_owned(), held + 1);
        Some(Share { quota: Arc::clone(self), user: user.to_owned() })
    }
}

/// What a user holds of a [`Quota`]. Dropped, it is given back.
pub(super) struct Share {
    quota: Arc<Quota>,
    user: String,
}

impl Share {
    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(held) = taken.users.get_mut(&self.user) {
            *held -= 1;
            if *held == 0 {
                taken.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_part_and_all_have_the_whole() {
        let quota = Quota::new(3, 2);
        let first = quota.take("a").unwrap();
        let second = quota.take("a").unwrap();
        assert!(quota.take("a").is_none(), "beyond the user's part");
        let third = quota.take("b").unwrap();
        assert!(quota.take("c").is_none(), "beyond the whole");
        drop(first);
        let fourth = quota.take("a").unwrap();
        drop((second, third, fourth));
        assert!(quota.lock().users.is_empty() && quota.lock().total == 0, "nothing is remembered of those who hold nothing");
    }
}
