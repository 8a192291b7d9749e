//! How much is done at a time, for all clients and for one of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places that clients take and give back; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    all: usize,
    each: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    client: IpAddr,
}

impl Places {
    /// `all` at a time, `each` for one client.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        Self { taken: Arc::default(), all, each }
    }

    /// `None` where there is none left.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let all = taken.all;
        let own = taken.by.entry(client).or_default();
        if all >= self.all || *own >= self.each {
            if *own == 0 {
                taken.by.remove(&client);
            }
            return None;
        }
        *own += 1;
        taken.all += 1;
        Some(Place { places: self.clone(), client })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_does_not_take_all_places() {
        let places = Places::new(3, 2);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(one);
        let second = places.take(one);
        assert!(first.is_some() && second.is_some() && places.take(one).is_none());
        let third = places.take(two);
        assert!(third.is_some() && places.take(two).is_none());
        drop(first);
        assert!(places.take(two).is_some());
        drop((second, third));
        assert!(places.taken().by.is_empty());
        assert_eq!(places.taken().all, 0);
    }
}
