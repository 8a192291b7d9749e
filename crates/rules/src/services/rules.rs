//! All rules at once.

use std::collections::BTreeMap;

use super::{Frontend, Rule};
use crate::packed::Packed;

/// A rule for each frontend, as small as they can be: those of the whole cluster are kept at all times, at least two of each Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<Frontend, Small>);

/// Every Service has a [`Rule::Reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Small {
    Reject,
    Other(Packed<Rule>),
}

impl Small {
    fn of(rule: &Rule) -> Self {
        if *rule == Rule::Reject { Self::Reject } else { Self::Other(Packed::of(rule)) }
    }

    fn rule(&self) -> Rule {
        match self {
            Self::Reject => Rule::Reject,
            Self::Other(packed) => packed.unpack().unwrap_or(Rule::Reject),
        }
    }
}

impl Rules {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the frontend's rule in the place of an earlier one.
    pub fn insert(&mut self, frontend: Frontend, rule: &Rule) {
        self.0.insert(frontend, Small::of(rule));
    }

    /// Takes the frontend's rule out.
    pub fn remove(&mut self, frontend: &Frontend) -> Option<Rule> {
        self.0.remove(frontend).map(|rule| rule.rule())
    }

    /// The frontend's rule.
    pub fn get(&self, frontend: &Frontend) -> Option<Rule> {
        self.0.get(frontend).map(Small::rule)
    }

    /// Whether the frontend has a rule.
    pub fn contains(&self, frontend: &Frontend) -> bool {
        self.0.contains_key(frontend)
    }

    /// In the order of the frontends.
    pub fn iter(&self) -> impl Iterator<Item = (&Frontend, Rule)> {
        self.0.iter().map(|(frontend, rule)| (frontend, rule.rule()))
    }

    /// Lets each rule be changed. One that stays as it is stays where it is in memory: what is made meanwhile and goes again would
    /// leave holes between them.
    pub fn for_each_mut(&mut self, mut change: impl FnMut(&Frontend, &mut Rule)) {
        for (frontend, kept) in &mut self.0 {
            let mut rule = kept.rule();
            change(frontend, &mut rule);
            let changed = Small::of(&rule);
            if *kept != changed {
                *kept = changed;
            }
        }
    }
}

impl FromIterator<(Frontend, Rule)> for Rules {
    /// Of two rules for a frontend the last one counts.
    fn from_iter<I: IntoIterator<Item = (Frontend, Rule)>>(rules: I) -> Self {
        Self(rules.into_iter().map(|(frontend, rule)| (frontend, Small::of(&rule))).collect())
    }
}

impl From<&BTreeMap<Frontend, Rule>> for Rules {
    fn from(rules: &BTreeMap<Frontend, Rule>) -> Self {
        Self(rules.iter().map(|(frontend, rule)| (*frontend, Small::of(rule))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::services::{Address, Forward, Protocol};

    #[test]
    fn a_rule_is_kept_as_it_is() {
        let frontend = Frontend { address: Address::Ip("10.0.0.1".parse().unwrap()), protocol: Protocol::Tcp, port: 80 };
        let full = Forward {
            endpoints: ["10.1.0.1:8080", "[fd00::1]:65535"].map(|text| text.parse().unwrap()).into(),
            inside: Some(vec!["10.1.0.3:1".parse().unwrap()]),
            masquerade: true,
            affinity: Some(Duration::from_millis(10_800_500)),
            sources: ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).into(),
        };
        let rules = [
            Rule::Reject,
            Rule::Drop,
            Rule::Forward(Forward::default()),
            Rule::Forward(Forward { inside: Some(Vec::new()), ..Forward::default() }),
            Rule::Forward(full),
        ];
        for rule in rules {
            let mut kept = Rules::default();
            kept.insert(frontend, &rule);
            assert_eq!(kept.get(&frontend), Some(rule));
            kept.for_each_mut(|_, rule| *rule = Rule::Drop);
            assert_eq!(kept.remove(&frontend), Some(Rule::Drop));
            assert!(!kept.contains(&frontend));
        }
    }
}
