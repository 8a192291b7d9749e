//! Values in as little memory as they can be kept in: a node holds those of the whole cluster.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

/// A value as one piece of memory of just its size, instead of several of which each is rounded up (postcard's format). For what is
/// there in thousands and seldom looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<T> {
    bytes: Box<[u8]>,
    of: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Packed<T> {
    /// Takes it in. `T` must not use what the format lacks: fields that are left out when written, untagged enums.
    pub fn of(value: &T) -> Self {
        Self { bytes: postcard::to_allocvec(value).unwrap_or_default().into(), of: PhantomData }
    }

    /// The value; `None` only if `T` is such a type.
    pub fn unpack(&self) -> Option<T> {
        postcard::from_bytes(&self.bytes).ok()
    }
}
