//! The tables: text files `*.table` beside this one, so that rows are added without knowing Rust.
//!
//! ```text
//! # A comment. First of all, where it needs a cluster, its objects:
//! ~~~ yaml
//! …
//! ~~~
//! ~~~ played                           or, for kinds that Sealane's API does not serve, those of an API that is played
//! …
//! ~~~
//! status NAMESPACE/POD [unready] ADDRESS...   a Pod's addresses: Running, Ready or not
//!
//! [A SCENARIO]                         a server is started for each
//! lacks sealane: WHY                   the Corefile is refused by this server, and asked of the other alone
//! ~~~                                  its Corefile; asked is port 5300 of the machine's loopback; others are its own
//! .:5300 {                             $KUBECONFIG, $DIR: the cluster's, and a folder of the scenario's
//! }
//! ~~~
//! ~~~ NAME                             a file in $DIR
//! ~~~
//! origin ZONE                          is put behind names without last dot
//! let NAME = TEXT                      $NAME in expected records
//!
//! NAME TYPE [+OPTION...] -> RCODE FLAG... [opt=SIZE[,do]] [noquestion]
//!     an RECORD                        answer: NAME TTL TYPE DATA; @ is the question's name, * any one word,
//!     ns RECORD                        authority     and `3x RECORD` three that match
//!     ad RECORD                        additional
//!     but SERVER RCODE FLAG... -- WHY  what this server says on purpose: records follow
//! ```
//!
//! `NAME TYPE -> ?` fails with what the servers say, as it would stand here: that is how rows are added.
//!
//! Each row is asked over UDP twice, for what was answered before is answered otherwise, and over TCP.
//!
//! Options: `+tcp` `+udp` (that transport alone), `+once` (over UDP), `+edns=SIZE` `+do` `+version=N`, `+nord` `+ad` `+cd`, `+class=CH`,
//! `+opcode=N`. Records are in any order, CNAMEs in theirs. `rd` and `cd` must come back as they were sent, and are
//! not written. The first row of a scenario is asked until it is right: it should need what the server must first
//! learn.

use std::path::Path;

use super::codec::{Edns, FLAGS, Query, Reply, type_number};

/// A file.
#[derive(Debug, Default)]
pub struct Table {
    pub file: String,
    pub objects: String,
    /// Those of a played API.
    pub played: String,
    /// Namespace, Pod, addresses, `unready` before them.
    pub statuses: Vec<(String, String, Vec<String>)>,
    pub scenarios: Vec<Scenario>,
}

#[derive(Debug, Default)]
pub struct Scenario {
    pub title: String,
    pub corefile: String,
    /// Name and content.
    pub files: Vec<(String, String)>,
    /// The server that refuses the Corefile.
    pub lacks: Option<String>,
    pub rows: Vec<Row>,
    origin: String,
    words: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Row {
    /// `FILE:LINE: NAME TYPE OPTIONS`
    pub head: String,
    pub query: Query,
    pub udp: bool,
    pub tcp: bool,
    pub once: bool,
    expected: Expected,
    /// By server.
    but: Vec<(String, Expected)>,
}

#[derive(Clone, Debug, Default)]
struct Expected {
    rcode: String,
    flags: u16,
    opt: Option<String>,
    /// The question does not come back.
    bare: bool,
    sections: [Vec<(usize, String)>; 3],
}

const SECTIONS: [&str; 3] = ["an", "ns", "ad"];

impl Table {
    /// Reads a file.
    #[track_caller]
    pub fn read(path: &Path) -> Table {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Table::parse(&file, &text).unwrap_or_else(|e| panic!("{file}:{e}"))
    }

    fn parse(file: &str, text: &str) -> Result<Table, String> {
        let mut table = Table { file: file.to_owned(), ..Table::default() };
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            let at = format!("{number}: {line}");
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("~~~") {
                let mut content = String::new();
                loop {
                    let (line, _) = lines.next().ok_or_else(|| format!("{at}: it has no end"))?;
                    if line == "~~~" {
                        break;
                    }
                    content += line;
                    content.push('\n');
                }
                match (table.scenarios.last_mut(), name.trim()) {
                    (None, "yaml") => table.objects = content,
                    (None, "played") => table.played = content,
                    (Some(scenario), "") if scenario.corefile.is_empty() => scenario.corefile = content,
                    (Some(scenario), name) if !name.is_empty() => {
                        scenario.files.push((name.to_owned(), content))
                    }
                    _ => return Err(format!("{at}: not here")),
                }
                continue;
            }
            if let Some(title) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                table.scenarios.push(Scenario { title: title.to_owned(), ..Scenario::default() });
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(scenario) = table.scenarios.last_mut() else {
                let ["status", pod, addresses @ ..] = words.as_slice() else {
                    return Err(format!("{at}: before the first scenario"));
                };
                let (namespace, pod) = pod.split_once('/').ok_or(&at)?;
                let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
                table.statuses.push((namespace.to_owned(), pod.to_owned(), addresses));
                continue;
            };
            let head = format!("{file}:{number}:");
            scenario.line(&head, line, &words).map_err(|why| format!("{at}: {why}"))?;
        }
        let empty = table.scenarios.iter().find(|s| s.rows.is_empty() || s.corefile.is_empty());
        match empty {
            Some(scenario) => Err(format!(" [{}] has no Corefile or no rows", scenario.title)),
            None if table.scenarios.is_empty() => Err(" no scenario".to_owned()),
            None => Ok(table),
        }
    }
}

impl Scenario {
    fn line(&mut self, head: &str, line: &str, words: &[&str]) -> Result<(), String> {
        if line.starts_with(' ') {
            let row = self.rows.last_mut().ok_or("a record before the first row")?;
            if let ["but", server, outcome @ ..] = words {
                let end = outcome.iter().position(|w| *w == "--").ok_or("the reason is missing: -- WHY")?;
                if outcome.len() == end + 1 {
                    return Err("the reason is missing".to_owned());
                }
                row.but.push(((*server).to_owned(), Expected::parse(&outcome[..end])?));
                return Ok(());
            }
            let section = SECTIONS.iter().position(|s| *s == words[0]).ok_or("neither an, ns, ad nor but")?;
            let mut rest = words[1..].join(" ");
            let mut count = 1;
            if let Some((times, record)) = rest.split_once("x ")
                && let Ok(times) = times.parse()
            {
                (count, rest) = (times, record.to_owned());
            }
            for (name, text) in &self.words {
                rest = rest.replace(&format!("${name}"), text);
            }
            let rest = rest.split(' ').enumerate().map(|(at, word)| match (at, word) {
                (0, "@") => row.query.name.clone(),
                (0, word) if word != "*" => absolute(word, &self.origin),
                (_, word) => word.to_owned(),
            });
            let record = rest.collect::<Vec<_>>().join(" ");
            let expected = row.but.last_mut().map_or(&mut row.expected, |(_, but)| but);
            expected.sections[section].push((count, record));
            return Ok(());
        }
        match words {
            ["lacks", server, ..] => self.lacks = Some(server.trim_end_matches(':').to_owned()),
            ["origin", zone] => self.origin = (*zone).to_owned(),
            ["let", name, "=", text @ ..] => self.words.push(((*name).to_owned(), text.join(" "))),
            _ => {
                let (asked, expected) = line.split_once(" -> ").ok_or("no `->`")?;
                let mut row = Row::parse(asked, &self.origin)?;
                row.head = format!("{head} {asked}");
                row.expected = Expected::parse(&expected.split_whitespace().collect::<Vec<_>>())?;
                self.rows.push(row);
            }
        }
        Ok(())
    }
}

fn absolute(name: &str, origin: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.{origin}") }
}

impl Expected {
    fn parse(words: &[&str]) -> Result<Expected, String> {
        let (rcode, rest) = words.split_first().ok_or("no response code")?;
        let mut expected = Expected { rcode: (*rcode).to_owned(), ..Expected::default() };
        for word in rest {
            match (FLAGS.iter().find(|(name, _)| name == word), word.strip_prefix("opt=")) {
                (Some((_, bit)), _) => expected.flags |= bit,
                (None, Some(opt)) => expected.opt = Some(opt.to_owned()),
                (None, None) if *word == "noquestion" => expected.bare = true,
                (None, None) => return Err(format!("`{word}` is no flag")),
            }
        }
        Ok(expected)
    }

    /// Whether these records are these patterns.
    fn section(patterns: &[(usize, String)], records: &[String]) -> bool {
        let aliases = |text: &str| text.contains(" CNAME ");
        let wanted = patterns.iter().map(|(_, p)| p).filter(|p| aliases(p));
        let mut found = records.iter().filter(|r| aliases(r));
        // A missing one is found missing below.
        if !wanted.zip(&mut found).all(|(pattern, record)| matches(pattern, record)) {
            return false;
        }
        let mut left: Vec<&String> = records.iter().collect();
        for (count, pattern) in patterns {
            for _ in 0..*count {
                match left.iter().position(|record| matches(pattern, record)) {
                    Some(at) => left.swap_remove(at),
                    None => return false,
                };
            }
        }
        left.is_empty()
    }
}

fn matches(pattern: &str, record: &str) -> bool {
    let (mut pattern, mut record) = (pattern.split(' '), record.split(' '));
    loop {
        match (pattern.next(), record.next()) {
            (None, None) => return true,
            (Some(p), Some(r)) if p == "*" || p == r => {}
            _ => return false,
        }
    }
}

impl Row {
    fn parse(text: &str, origin: &str) -> Result<Row, String> {
        let mut words = text.split_whitespace();
        let (Some(name), Some(rtype)) = (words.next(), words.next()) else {
            return Err("a row begins with name and type".to_owned());
        };
        let rtype = type_number(rtype).ok_or_else(|| format!("`{rtype}` is no type"))?;
        let name = if name == "@" { origin.to_owned() } else { absolute(name, origin) };
        let mut query = Query { name, rtype, class: 1, flags: 0x0100, edns: None };
        let (mut udp, mut tcp, mut once) = (true, true, false);
        for word in words {
            let (option, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u16>().map_err(|e| format!("{word}: {e}"));
            let mut edns = query.edns.unwrap_or(Edns { size: 4096, dnssec: false, version: 0 });
            match option {
                "+udp" => tcp = false,
                "+once" => (tcp, once) = (false, true),
                "+tcp" => udp = false,
                "+nord" => query.flags &= !0x0100,
                "+ad" => query.flags |= 0x0020,
                "+cd" => query.flags |= 0x0010,
                "+opcode" => query.flags |= number()? << 11,
                "+class" => query.class = if value == "CH" { 3 } else { number()? },
                "+edns" => edns.size = number()?,
                "+do" => edns.dnssec = true,
                "+version" => edns.version = value.parse().map_err(|e| format!("{word}: {e}"))?,
                _ => return Err(format!("`{word}` is no option")),
            }
            if matches!(option, "+edns" | "+do" | "+version") {
                query.edns = Some(edns);
            }
        }
        Ok(Row { head: String::new(), query, udp, tcp, once, expected: Expected::default(), but: Vec::new() })
    }

    /// Whether it only asks what there is: `-> ?`.
    pub fn open(&self) -> bool {
        self.expected.rcode == "?"
    }

    /// Whether it asks what the server is called.
    pub fn about_the_server(&self) -> bool {
        Some(self.query.rtype) == type_number("NS") || self.query.name.starts_with("ns.dns.")
    }

    fn expected(&self, server: &str) -> &Expected {
        self.but.iter().find(|(name, _)| name == server).map_or(&self.expected, |(_, but)| but)
    }

    /// What is wrong with an answer of this server.
    pub fn wrong(&self, server: &str, reply: &Reply) -> Option<String> {
        let expected = self.expected(server);
        // Asked to be echoed (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2).
        const ECHOED: u16 = 0x0110;
        let known: u16 = FLAGS.iter().map(|(_, bit)| bit).sum();
        let flags = expected.flags | self.query.flags & ECHOED;
        let sections = expected.sections.iter().zip(&reply.sections);
        let right = reply.rcode == expected.rcode
            && reply.flags & known == flags
            && reply.flags & 0x8000 != 0
            && reply.flags & 0x7800 == self.query.flags & 0x7800
            && reply.opt == expected.opt
            && reply.question == if expected.bare { Vec::new() } else { self.query.question() }
            && sections.into_iter().all(|(patterns, records)| Expected::section(patterns, records));
        (!right).then(|| self.shown(reply))
    }

    /// An answer as a table has it.
    fn shown(&self, reply: &Reply) -> String {
        let (_, asked) = self.head.split_once(": ").unwrap_or_default();
        let mut text = format!("{asked} -> {}", reply.rcode);
        for (name, bit) in FLAGS {
            if reply.flags & bit != 0 && (!matches!(*name, "rd" | "cd") || self.query.flags & bit == 0) {
                text += &format!(" {name}");
            }
        }
        if let Some(opt) = &reply.opt {
            text += &format!(" opt={opt}");
        }
        if reply.question.is_empty() {
            text += " noquestion";
        } else if reply.question != self.query.question() {
            text += &format!(" (and another question: {:?})", String::from_utf8_lossy(&reply.question));
        }
        for (section, records) in SECTIONS.iter().zip(&reply.sections) {
            let mut records = records.clone();
            records.sort_by_key(|r| (!r.contains(" CNAME ")).then(|| r.clone()));
            for record in records {
                let own = record.strip_prefix(&self.query.name).filter(|rest| rest.starts_with(' '));
                let record = own.map_or(record.clone(), |rest| format!("@{rest}"));
                text += &format!("\n    {section} {record}");
            }
        }
        text
    }
}

#[test]
fn a_table_is_read() {
    let text = "# of nothing\n[one]\n~~~\n.:5300 {\n}\n~~~\norigin example.\nlet soa = @ 5 SOA a. b. *\n\
        a A +edns=512 -> NOERROR aa opt=512\n    an 2x @ 5 A *\n    an b 5 CNAME c.\n    but other REFUSED -- it can\n\
        x. MX +tcp +nord -> NXDOMAIN\n    ns $soa\n";
    let table = Table::parse("t", text).unwrap();
    let [a, x] = table.scenarios[0].rows.as_slice() else { panic!("{table:#?}") };
    assert_eq!((a.query.name.as_str(), x.query.name.as_str()), ("a.example.", "x."));
    let mut reply = Reply {
        rcode: "NOERROR".to_owned(),
        flags: 0x8500,
        question: a.query.question(),
        opt: Some("512".to_owned()),
        sections: [
            ["b.example. 5 CNAME c.", "a.example. 5 A 1.1.1.1", "a.example. 5 A 1.1.1.2"]
                .map(str::to_owned)
                .to_vec(),
            vec![],
            vec![],
        ],
        ..Reply::default()
    };
    assert_eq!(a.wrong("any", &reply), None);
    assert!(a.wrong("other", &reply).is_some(), "it says REFUSED");
    reply.sections[0].pop();
    assert!(a.wrong("any", &reply).unwrap().contains("an @ 5 A 1.1.1.1"));
    for (from, to) in
        [("aa opt", "xx opt"), ("-- it can", ""), ("MX", "MY"), ("    ns", "    nx"), ("[one]", "one")]
    {
        assert!(Table::parse("t", &text.replace(from, to)).is_err(), "{to}");
    }
}
