//! Which networks pods go to with their own addresses; to all others they go with the node's.

use kube_pet_core::services::Network;
use tokio::sync::watch;

use crate::config::NodeConfiguration;
use crate::tunnel::Allocation;

/// Networks that are reached with pods' own addresses. `None`: all are.
pub type Exceptions = Option<Vec<Network>>;

/// What is known without asking the cluster, and who tells it later.
pub struct Masquerade {
    /// The configuration's word.
    configured: Exceptions,
    /// What the cluster tells of its networks, where the configuration says nothing.
    tunnel: Option<watch::Receiver<Option<Allocation>>>,
}

impl Masquerade {
    /// `alone`: there is no cluster, so nobody routes to the pods: the world answers the node only.
    #[must_use]
    pub fn new(config: &NodeConfiguration, alone: bool, tunnel: watch::Receiver<Option<Allocation>>) -> Self {
        let networks = config.non_masquerade_cidrs.as_ref();
        let networks = networks.map(|all| all.iter().map(|net| Network { address: net.address, prefix: net.prefix }).collect());
        let configured: Exceptions = networks.or_else(|| alone.then(Vec::new));
        let tunnel = (configured.is_none() && config.tunnel.enabled).then_some(tunnel);
        Self { configured, tunnel }
    }

    /// What holds now.
    ///
    /// With a tunnel that is what it leads to: nobody else has a way back to the pods of this node. Before the cluster has told its
    /// networks, nothing is masqueraded: what is for the cluster must not be taken for the node's own.
    #[must_use]
    pub fn exceptions(&mut self) -> Exceptions {
        let Some(tunnel) = &mut self.tunnel else { return self.configured.clone() };
        let networks = tunnel.borrow_and_update().as_ref().map(|allocation| allocation.networks.clone());
        networks.filter(|networks| !networks.is_empty())
    }

    /// Ends when it may be something else. May be dropped.
    pub async fn changed(&mut self) {
        let told = match &mut self.tunnel {
            Some(tunnel) => tunnel.changed().await.is_ok(),
            None => false,
        };
        if !told {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn masquerade(text: &str, alone: bool) -> (Masquerade, watch::Sender<Option<Allocation>>) {
        let mut config = NodeConfiguration::defaults("/");
        config.tunnel.enabled = text.contains("tunnel");
        config.non_masquerade_cidrs = text.contains("set").then(|| vec!["10.0.0.0/8".parse().unwrap()]);
        let (told, tunnel) = watch::channel(config.tunnel.enabled.then(Allocation::default));
        (Masquerade::new(&config, alone, tunnel), told)
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_configuration_has_the_first_word_then_the_tunnel() {
        assert_eq!(masquerade("", false).0.exceptions(), None);
        assert_eq!(masquerade("", true).0.exceptions(), Some(Vec::new()));
        assert_eq!(masquerade("tunnel", false).0.exceptions(), None, "the cluster has not told its networks");

        let (mut both, told) = masquerade("tunnel, set", false);
        told.send_replace(Some(Allocation { networks: vec![network("10.211.0.0/16")], ..Allocation::default() }));
        assert_eq!(both.exceptions(), Some(vec![network("10.0.0.0/8")]));
        assert_eq!(both.changed().now_or_never(), None);
    }

    #[test]
    fn the_networks_of_the_tunnel_are_followed() {
        let (mut masquerade, told) = masquerade("tunnel", false);
        assert_eq!(masquerade.exceptions(), None);
        assert_eq!(masquerade.changed().now_or_never(), None);
        let networks = vec![network("10.210.0.0/16"), network("10.211.0.0/16")];
        told.send_replace(Some(Allocation { networks: networks.clone(), ..Allocation::default() }));
        assert_eq!(masquerade.changed().now_or_never(), Some(()));
        assert_eq!(masquerade.exceptions(), Some(networks));
    }
}
