//! The connection to the API server, exchangeable while running: a certificate rotation replaces the client under its users.

use tokio::sync::watch;

/// A handle to the current API client. Cheap to clone; every call of [`ApiHandle::client`] gives the newest one.
#[derive(Clone)]
pub struct ApiHandle {
    current: watch::Receiver<kube::Client>,
}

impl ApiHandle {
    /// The handle and the sender that replaces its client.
    pub fn new(client: kube::Client) -> (watch::Sender<kube::Client>, Self) {
        let (tx, rx) = watch::channel(client);
        (tx, Self { current: rx })
    }

    /// The newest client. Do not keep it over a long wait: after a rotation the old identity ends.
    pub fn client(&self) -> kube::Client {
        self.current.borrow().clone()
    }

    /// Resolves when the client has been replaced; long-lived watches then start again with the new identity.
    /// Never resolves when no replacement can come any more.
    pub async fn replaced(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
