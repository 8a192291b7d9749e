//! Recorded replies of real Podman services, one folder per version, and a service that misbehaves.

mod faults;
mod fixtures;
mod requests;

pub(crate) use kube_pet_testkit::podman::{Answer, Fake, reply};

trait Connect {
    fn client(&self) -> crate::Client;
}

impl Connect for Fake {
    fn client(&self) -> crate::Client {
        crate::Client::new(self.socket())
    }
}
