//! Frontends, from the rules that stand in the kernel.

use super::layout::{EXTERNAL, FIREWALL, MARK_MASQ, NODE_PORTS, OFF_CLUSTER, SERVICES, TableName};
use super::names::{EXT, FW, SEP, SVC, SVL};
use super::rules::{Action, Match, Rule, SavedRules};
use sealane_catalog::NamespacedName;
use sealane_proxy::{Backend, Cidr, Class, Frontend, FrontendKey, Installed, Masquerade, Target};

use std::sync::Arc;

impl SavedRules {
    /// Frontends as packets meet them. Whose they are the kernel does not know: names are empty.
    pub(super) fn frontends(&self) -> Installed {
        let mut installed = Installed::new();
        for rule in self.chain(TableName::Nat, SERVICES) {
            let (Some(address), Some(to)) = (rule.address(), rule.leads_to()) else { continue };
            if to == NODE_PORTS {
                for port in self.chain(TableName::Nat, NODE_PORTS) {
                    if let (Some((protocol, port_number)), Some(chain)) = (port.port(), port.leads_to())
                        && port.address().is_none_or(|a| a == address)
                    {
                        let key = FrontendKey { address, protocol, port: port_number };
                        installed.insert(key, self.served(key, chain));
                    }
                }
            } else if let Some((protocol, port)) = rule.port() {
                let key = FrontendKey { address, protocol, port };
                installed.insert(key, self.served(key, to));
            }
        }
        for (chain, class) in
            [(SERVICES, Class::ClusterIp), (FIREWALL, Class::External), (EXTERNAL, Class::External)]
        {
            self.chain(TableName::Filter, chain)
                .iter()
                .for_each(|rule| unserved(rule, class, &mut installed));
        }
        installed
    }

    /// What a rule of KUBE-SERVICES or KUBE-NODEPORTS leads to.
    fn served(&self, key: FrontendKey, chain: &str) -> Frontend {
        if chain.starts_with(FW) {
            let rules = self.chain(TableName::Nat, chain);
            let behind = rules.iter().find_map(Rule::leads_to).unwrap_or_default();
            let sources = Cidr::outermost(rules.iter().filter_map(Rule::source)).into();
            return Frontend { sources: Some(sources), ..self.served(key, behind) };
        }
        if chain.starts_with(EXT) {
            return self.external(key, chain);
        }
        Frontend {
            masquerade: self.masquerade(&key, chain),
            target: self.balance(chain),
            affinity: self.affinity(chain),
            ..frontend(key, Class::ClusterIp, Target::Drop)
        }
    }

    fn external(&self, key: FrontendKey, chain: &str) -> Frontend {
        let rules = self.chain(TableName::Nat, chain);
        let from_node = |rule: &&Rule| rule.asks(|m| *m == Match::SourceIsLocal);
        let endpoints =
            |rule: &&Rule| rule.leads_to().is_some_and(|c| c.starts_with(SVC) || c.starts_with(SVL));
        let all = rules.iter().filter(from_node).filter(endpoints).find_map(Rule::leads_to);
        let rest = rules.iter().filter(|r| r.matches.is_empty()).filter(endpoints).find_map(Rule::leads_to);
        let balance = |chain: Option<&str>| chain.map_or(Target::Drop, |c| self.balance(c));
        let marks = rules.iter().any(|r| r.matches.is_empty() && r.leads_to() == Some(MARK_MASQ));
        let plain = Frontend {
            affinity: all.or(rest).and_then(|c| self.affinity(c)),
            ..frontend(key, Class::External, Target::Drop)
        };
        match all {
            Some(all) => Frontend { target: balance(Some(all)), outside: Some(balance(rest)), ..plain },
            None => {
                let masquerade = if marks { Masquerade::Always } else { Masquerade::Never };
                Frontend { target: balance(rest), masquerade, ..plain }
            }
        }
    }

    /// The endpoints that KUBE-SVC- or KUBE-SVL- spreads over.
    fn balance(&self, chain: &str) -> Target {
        let led =
            self.chain(TableName::Nat, chain).iter().filter(|r| !is_memory(r)).filter_map(Rule::leads_to);
        let backends: Arc<[Backend]> =
            led.filter(|c| c.starts_with(SEP)).filter_map(|c| self.endpoint(c)).collect();
        Target::Balance(backends)
    }

    fn endpoint(&self, chain: &str) -> Option<Backend> {
        self.chain(TableName::Nat, chain).iter().find_map(|rule| match rule.action {
            Action::Dnat(backend) => Some(backend),
            _ => None,
        })
    }

    fn affinity(&self, chain: &str) -> Option<u32> {
        let matches = self.chain(TableName::Nat, chain).iter().flat_map(|rule| &rule.matches);
        matches.into_iter().find_map(|(_, m)| match m {
            Match::Remembered(seconds, _) => Some(*seconds),
            _ => None,
        })
    }

    fn masquerade(&self, key: &FrontendKey, chain: &str) -> Masquerade {
        let of_key =
            |r: &&Rule| r.address() == Some(key.address) && r.port() == Some((key.protocol, key.port));
        let rules = self.chain(TableName::Nat, chain).iter().filter(of_key);
        let pods = |(not, m): &(bool, Match)| *not && matches!(m, Match::Source(_) | Match::Interface(_));
        rules
            .filter_map(|rule| match rule.leads_to()? {
                MARK_MASQ if rule.matches.iter().any(pods) => Some(Masquerade::OffCluster),
                MARK_MASQ => Some(Masquerade::Always),
                OFF_CLUSTER => Some(Masquerade::OffCluster),
                _ => None,
            })
            .next()
            .unwrap_or(Masquerade::Never)
    }
}

fn is_memory(rule: &Rule) -> bool {
    rule.asks(|m| matches!(m, Match::Remembered(..)))
}

fn frontend(key: FrontendKey, class: Class, target: Target) -> Frontend {
    Frontend {
        key,
        service: NamespacedName { namespace: "".into(), name: "".into() },
        port_name: "".into(),
        class,
        affinity: None,
        masquerade: Masquerade::Never,
        target,
        sources: None,
        lingering: Arc::default(),
        outside: None,
    }
}

/// Takes in a rule of filter: what it refuses or swallows is what nat does not serve.
fn unserved(rule: &Rule, class: Class, installed: &mut Installed) {
    let target = match rule.action {
        Action::Reject => Target::Reject,
        Action::Drop => Target::Drop,
        _ => return,
    };
    let (Some(address), Some((protocol, port))) = (rule.address(), rule.port()) else { return };
    let key = FrontendKey { address, protocol, port };
    match (installed.get_mut(&key), rule.source()) {
        // Whom KUBE-FW- did not admit, or the others whom KUBE-EXT- leads nowhere.
        (Some(_), None) => {}
        // Another range whose senders are refused.
        (Some(found), Some(range)) => {
            let ranges = found.sources.iter().flat_map(|s| s.iter().copied()).chain([range]);
            found.sources = Some(Cidr::outermost(ranges).into());
        }
        (None, range) => {
            let sources = range.map(|r| Arc::from([r]));
            installed.insert(key, Frontend { sources, ..frontend(key, class, target) });
        }
    }
}
