//! Sends questions to other machines, and hears their answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_pet_net::tunnel_table::QUESTION;
use tracing::debug;

use crate::device::PeerStatus;
use crate::keys::PublicKey;
use crate::mtu::echo::Echo;
use crate::mtu::{Probe, source};

/// What one machine is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// This machine's address in the tunnel.
    pub from: IpAddr,
    /// The other one's.
    pub to: IpAddr,
    /// Nothing to be asked now is none.
    pub probes: Vec<Probe>,
}

/// What one machine has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Since the last time.
    pub answers: Vec<Probe>,
    /// This machine's address for packets to where the other one is.
    pub source: Option<IpAddr>,
}

/// A socket for each machine that a path in use leads to.
#[derive(Debug, Default)]
pub struct Asker {
    echoes: BTreeMap<PublicKey, (IpAddr, IpAddr, Echo)>,
}

impl Asker {
    /// What those have answered who were asked. `mark`: of the tunnel's own packets.
    pub fn hear(&self, peers: &BTreeMap<PublicKey, PeerStatus>, mark: u32) -> BTreeMap<PublicKey, Heard> {
        let heard = self.echoes.iter().map(|(key, (_, _, echo))| {
            let endpoint = peers.get(key).and_then(|peer| peer.endpoint);
            let source = endpoint.and_then(|endpoint| source(endpoint, mark).ok());
            (*key, Heard { answers: echo.answers(), source })
        });
        heard.collect()
    }

    /// Asks these, and hears of nobody else any more. What cannot be sent is as good as lost.
    pub fn ask(&mut self, questions: &BTreeMap<PublicKey, Question>) {
        self.echoes.retain(|key, (from, to, _)| questions.get(key).is_some_and(|asked| (asked.from, asked.to) == (*from, *to)));
        for (key, Question { from, to, probes }) in questions {
            if !self.echoes.contains_key(key) {
                match Echo::open(*from, *to, QUESTION) {
                    Ok(echo) => drop(self.echoes.insert(*key, (*from, *to, echo))),
                    Err(error) => debug!(%from, %to, %error, "another machine cannot be asked yet"),
                }
            }
            let Some((_, _, echo)) = self.echoes.get(key) else { continue };
            for probe in probes {
                if let Err(error) = echo.ask(*probe) {
                    debug!(%to, size = probe.size, %error, "another machine is not asked");
                    // Nor is the small one behind a large one: nothing is learnt of sizes.
                    break;
                }
            }
        }
    }
}
