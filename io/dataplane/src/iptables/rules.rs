//! Rules as iptables-save prints them.

use super::layout::TableName;
use sealane_catalog::Protocol;
use sealane_proxy::{Backend, Cidr};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Match {
    /// `-s`
    Source(Cidr),
    /// `-d`
    Destination(Cidr),
    /// `-p`
    Protocol(Protocol),
    /// `--dport`
    Port(u16),
    /// `-i`; with `+` at its end, all that begin so.
    Interface(String),
    /// `--mark VALUE/MASK`
    Mark(u32, u32),
    /// `--src-type LOCAL`
    SourceIsLocal,
    /// `--dst-type LOCAL`
    DestinationIsLocal,
    /// `--ctstate`
    State(Vec<String>),
    /// `--probability`
    Random(f64),
    /// `-m recent --rcheck`: seconds, and the list.
    Remembered(u32, String),
    /// `-m recent --set`: the list, in which the sender stands from now on.
    Remember(String),
    /// What is not ours and not understood.
    Unknown(String),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Jump(String),
    Accept,
    Drop,
    Reject,
    Return,
    /// `--set-xmark VALUE/MASK`: clears the mask's bits, then flips the value's.
    Mark(u32, u32),
    Dnat(Backend),
    Masquerade,
    /// It has no target.
    Nothing,
    Unknown(String),
}

/// One rule; each match with whether it must not hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) matches: Vec<(bool, Match)>,
    pub(super) action: Action,
    /// As it was printed, without `-A` and its chain.
    pub(super) text: String,
}

/// The rules of one family that stood in the kernel when they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SavedRules {
    pub(super) chains: BTreeMap<(TableName, String), Vec<Rule>>,
}

impl SavedRules {
    /// Reads what iptables-save printed; tables other than nat and filter are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = [TableName::Filter, TableName::Nat].into_iter().find(|t| t.name() == name);
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default().to_owned();
                saved.chains.entry((table, name)).or_default();
            } else if let Some((chain, text)) =
                line.strip_prefix("-A ").map(|l| l.split_once(' ').unwrap_or((l, "")))
            {
                saved.chains.entry((table, chain.to_owned())).or_default().push(rule(text));
            }
        }
        saved
    }

    /// A chain's rules, where it is there.
    pub(super) fn chain(&self, table: TableName, name: &str) -> &[Rule] {
        self.chains.get(&(table, name.to_owned())).map_or(&[], Vec::as_slice)
    }
}

/// Words, of which those in quotes may hold spaces.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quoted, mut within) = (false, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => (quoted, within) = (!quoted, true),
            ' ' if !quoted => within = false,
            _ => {
                let c = if c == '\\' { characters.next().unwrap_or(c) } else { c };
                if !std::mem::replace(&mut within, true) {
                    words.push(String::new());
                }
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
        // Quotes begin a word even where nothing is in them.
        if c == '"' && quoted {
            words.push(String::new());
        }
    }
    words
}

fn rule(text: &str) -> Rule {
    let all = words(text);
    let mut rest = all.iter().map(String::as_str).peekable();
    let mut rule = Rule { matches: Vec::new(), action: Action::Nothing, text: text.to_owned() };
    let (mut not, mut recent) = (false, Recent::default());
    while let Some(word) = rest.next() {
        let mut value = || rest.next().unwrap_or_default();
        let unknown = |value: &str| Match::Unknown(format!("{word} {value}"));
        let found = match word {
            "!" => {
                not = true;
                continue;
            }
            "-m" | "--comment" | "--mode" | "--mask" => {
                value();
                continue;
            }
            "--rsource" | "--reap" => continue,
            "--name" => {
                recent.name = value().to_owned();
                continue;
            }
            "--seconds" => {
                recent.seconds = value().parse().unwrap_or(0);
                continue;
            }
            "--rcheck" | "--set" => {
                recent.sets = Some(word == "--set");
                continue;
            }
            "-j" | "-g" => {
                rule.action = action(value(), &mut rest);
                continue;
            }
            "-s" => one(value(), range, Match::Source),
            "-d" => one(value(), range, Match::Destination),
            "-p" => one(value(), protocol, Match::Protocol),
            "--dport" => one(value(), |v| v.parse().ok(), Match::Port),
            "-i" => Match::Interface(value().to_owned()),
            "--mark" => one(value(), marked, |(value, mask)| Match::Mark(value, mask)),
            "--src-type" => one(value(), local, |()| Match::SourceIsLocal),
            "--dst-type" => one(value(), local, |()| Match::DestinationIsLocal),
            "--ctstate" => Match::State(value().split(',').map(str::to_owned).collect()),
            "--probability" => one(value(), |v| v.parse().ok(), Match::Random),
            _ => unknown(""),
        };
        rule.matches.push((std::mem::take(&mut not), found));
    }
    rule.matches.extend(recent.said().map(|m| (false, m)));
    rule
}

/// `-m recent`, whose options come in any order.
#[derive(Default)]
struct Recent {
    name: String,
    seconds: u32,
    sets: Option<bool>,
}

impl Recent {
    fn said(self) -> Option<Match> {
        self.sets.map(|sets| {
            if sets { Match::Remember(self.name) } else { Match::Remembered(self.seconds, self.name) }
        })
    }
}

fn one<T>(value: &str, read: impl Fn(&str) -> Option<T>, made: impl Fn(T) -> Match) -> Match {
    read(value).map_or_else(|| Match::Unknown(value.to_owned()), made)
}

fn range(text: &str) -> Option<Cidr> {
    text.parse().ok().or_else(|| text.parse().ok().map(Cidr::host))
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn local(text: &str) -> Option<()> {
    (text == "LOCAL").then_some(())
}

fn word(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `VALUE[/MASK]`
fn marked(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    Some((word(value)?, word(mask)?))
}

fn action<'a>(name: &str, rest: &mut impl Iterator<Item = &'a str>) -> Action {
    let unknown = || Action::Unknown(name.to_owned());
    match name {
        "ACCEPT" => Action::Accept,
        "DROP" => Action::Drop,
        "RETURN" => Action::Return,
        "REJECT" => {
            // Its options say how.
            rest.for_each(drop);
            Action::Reject
        }
        "MASQUERADE" => {
            rest.for_each(drop);
            Action::Masquerade
        }
        "MARK" => {
            let (option, value) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
            let read = match option {
                "--set-xmark" => marked(value),
                "--or-mark" => word(value).map(|bits| (bits, bits)),
                "--xor-mark" => word(value).map(|bits| (bits, 0)),
                _ => None,
            };
            read.map_or_else(unknown, |(value, mask)| Action::Mark(value, mask))
        }
        "DNAT" => {
            let at = (rest.next() == Some("--to-destination")).then(|| rest.next()).flatten();
            let at: Option<SocketAddr> = at.and_then(|a| a.parse().ok());
            at.map_or_else(unknown, |at| Action::Dnat(Backend { address: at.ip(), port: at.port() }))
        }
        _ => Action::Jump(name.to_owned()),
    }
}

impl Rule {
    /// The one address that it asks for.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.matches.iter().find_map(|(not, m)| match m {
            Match::Destination(range) if !not && *range == Cidr::host(range.network()) => {
                Some(range.network())
            }
            _ => None,
        })
    }

    /// The protocol and port that it asks for.
    pub(super) fn port(&self) -> Option<(Protocol, u16)> {
        let find = |wanted: &dyn Fn(&Match) -> bool| self.matches.iter().map(|(_, m)| m).find(|m| wanted(m));
        match (find(&|m| matches!(m, Match::Protocol(_))), find(&|m| matches!(m, Match::Port(_)))) {
            (Some(Match::Protocol(protocol)), Some(Match::Port(port))) => Some((*protocol, *port)),
            _ => None,
        }
    }

    /// The senders that it asks for.
    pub(super) fn source(&self) -> Option<Cidr> {
        self.matches.iter().find_map(|(not, m)| match m {
            Match::Source(range) if !not => Some(*range),
            _ => None,
        })
    }

    /// Whether it asks for something of this kind.
    pub(super) fn asks(&self, kind: impl Fn(&Match) -> bool) -> bool {
        self.matches.iter().any(|(_, m)| kind(m))
    }

    /// The chain that it leads to.
    pub(super) fn leads_to(&self) -> Option<&str> {
        match &self.action {
            Action::Jump(chain) => Some(chain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<(bool, Match)>, Action) {
        let rule = rule(text);
        (rule.matches, rule.action)
    }

    fn host(text: &str) -> Cidr {
        Cidr::host(text.parse().unwrap())
    }

    #[test]
    fn what_is_printed_is_understood() {
        let tcp = (false, Match::Protocol(Protocol::Tcp));
        let table: Vec<(&str, Vec<(bool, Match)>, Action)> = vec![
            (
                "-d 10.96.0.1/32 -p tcp -m comment --comment \"default/kubernetes:https cluster IP\" -m tcp --dport 443 \
                 -j KUBE-SVC-A",
                vec![(false, Match::Destination(host("10.96.0.1"))), tcp.clone(), (false, Match::Port(443))],
                Action::Jump("KUBE-SVC-A".into()),
            ),
            (
                "! -s 10.244.0.0/16 -d 10.96.0.1/32 -j KUBE-MARK-MASQ",
                vec![
                    (true, Match::Source("10.244.0.0/16".parse().unwrap())),
                    (false, Match::Destination(host("10.96.0.1"))),
                ],
                Action::Jump("KUBE-MARK-MASQ".into()),
            ),
            (
                "-m statistic --mode random --probability 0.33332999982 -j KUBE-SEP-A",
                vec![(false, Match::Random(0.33332999982))],
                Action::Jump("KUBE-SEP-A".into()),
            ),
            (
                "-m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource -j \
                 KUBE-SEP-A",
                vec![(false, Match::Remembered(10_800, "KUBE-SEP-A".into()))],
                Action::Jump("KUBE-SEP-A".into()),
            ),
            (
                "-p tcp -m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource -m tcp -j DNAT \
                 --to-destination 10.1.2.3:80",
                vec![tcp.clone(), (false, Match::Remember("KUBE-SEP-A".into()))],
                Action::Dnat(Backend { address: "10.1.2.3".parse().unwrap(), port: 80 }),
            ),
            (
                "-p udp -m udp -j DNAT --to-destination [fd00::1]:53",
                vec![(false, Match::Protocol(Protocol::Udp))],
                Action::Dnat(Backend { address: "fd00::1".parse().unwrap(), port: 53 }),
            ),
            ("-j MARK --set-xmark 0x4000/0x4000", vec![], Action::Mark(0x4000, 0x4000)),
            ("-j MARK --set-xmark 0x4000/0x0", vec![], Action::Mark(0x4000, 0)),
            ("-j MARK --or-mark 0x4000", vec![], Action::Mark(0x4000, 0x4000)),
            ("-j MARK --xor-mark 0x4000", vec![], Action::Mark(0x4000, 0)),
            (
                "-m mark ! --mark 0x4000/0x4000 -j RETURN",
                vec![(true, Match::Mark(0x4000, 0x4000))],
                Action::Return,
            ),
            (
                "-i pod+ -j KUBE-SVC-A",
                vec![(false, Match::Interface("pod+".into()))],
                Action::Jump("KUBE-SVC-A".into()),
            ),
            (
                "-m addrtype --src-type LOCAL -j A",
                vec![(false, Match::SourceIsLocal)],
                Action::Jump("A".into()),
            ),
            (
                "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                vec![(false, Match::State(vec!["RELATED".into(), "ESTABLISHED".into()]))],
                Action::Accept,
            ),
            (
                "-p sctp -m sctp --dport 9 -j REJECT --reject-with icmp-port-unreachable",
                vec![(false, Match::Protocol(Protocol::Sctp)), (false, Match::Port(9))],
                Action::Reject,
            ),
            ("-m comment --comment \"a \\\"b\\\" -j DROP\"", vec![], Action::Nothing),
            ("-m comment --comment \"\" -j DROP", vec![], Action::Drop),
            ("-j MASQUERADE --random-fully", vec![], Action::Masquerade),
            (
                "-o eth0 -j LOG",
                vec![(false, Match::Unknown("-o ".into())), (false, Match::Unknown("eth0 ".into()))],
                Action::Jump("LOG".into()),
            ),
        ];
        for (text, matches, action) in table {
            assert_eq!(parsed(text), (matches, action), "{text}");
        }
    }

    #[test]
    fn tables_are_told_apart() {
        let saved = SavedRules::parse(
            "# x\n*filter\n:INPUT ACCEPT [0:0]\n:A - [0:0]\n-A A -j DROP\nCOMMIT\n*mangle\n:B - [0:0]\nCOMMIT\n*nat\n:A - \
             [0:0]\n-A A\nCOMMIT\n",
        );
        let names: Vec<_> = saved.chains.iter().map(|((t, n), r)| (t.name(), n.as_str(), r.len())).collect();
        assert_eq!(names, [("filter", "A", 1), ("filter", "INPUT", 0), ("nat", "A", 1)]);
    }
}
