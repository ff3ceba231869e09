//! `dig [@SERVER] [-x ADDRESS] NAME [TYPE] [+short] [+tcp] [+search] [-p PORT]`

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Instant;

use sealane_dns::message::{Message, Record, rcode, rtype};

use crate::resolver::{self, Config};

struct Wish {
    config: Config,
    name: String,
    kind: u16,
    port: u16,
    short: bool,
    tcp: bool,
    search: bool,
}

fn parse(arguments: Vec<String>) -> Result<Wish, String> {
    let mut wish = Wish {
        config: Config::read(),
        name: ".".into(),
        kind: rtype::A,
        port: 53,
        short: false,
        tcp: false,
        search: false,
    };
    let mut rest = arguments.into_iter();
    let mut named = false;
    while let Some(word) = rest.next() {
        match word.as_str() {
            "+short" => wish.short = true,
            "+tcp" | "+vc" => wish.tcp = true,
            "+search" => wish.search = true,
            "-p" => {
                let port = rest.next().unwrap_or_default();
                wish.port = port.parse().map_err(|_| format!("-p: {port:?} is not a port"))?;
            }
            "-x" => {
                let text = rest.next().unwrap_or_default();
                let address: IpAddr = text.parse().map_err(|_| format!("-x: {text:?} is not an address"))?;
                (wish.name, wish.kind, named) = (resolver::reverse(address), rtype::PTR, true);
            }
            "-t" => {
                let kind = rest.next().unwrap_or_default();
                wish.kind = resolver::kind(&kind).ok_or_else(|| format!("unknown type {kind:?}"))?;
            }
            other if other.starts_with('@') => {
                let server = &other[1..];
                wish.config.servers = match server.parse() {
                    Ok(address) => vec![address],
                    Err(_) => resolver::addresses(server)?,
                };
            }
            other if other.starts_with(['+', '-']) => {}
            other => match resolver::kind(other).filter(|_| named) {
                Some(kind) => wish.kind = kind,
                None => (wish.name, named) = (other.to_owned(), true),
            },
        }
    }
    Ok(wish)
}

/// The program.
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let wish = parse(arguments)?;
    let started = Instant::now();
    let (server, answer) = if wish.search {
        resolver::search(&wish.config, &wish.name, wish.kind, wish.port, wish.tcp)?
    } else {
        let server = SocketAddr::new(wish.config.servers[0], wish.port);
        // A name is taken as it stands.
        (server, resolver::ask(server, &wish.name, wish.kind, wish.tcp)?)
    };
    if wish.short {
        for record in &answer.answers {
            println!("{}", data(record));
        }
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", text(&answer));
    println!(";; Query time: {} msec", started.elapsed().as_millis());
    println!(";; SERVER: {}#{}({})", server.ip(), server.port(), server.ip());
    Ok(ExitCode::SUCCESS)
}

/// The answer to a name with the search list, as kuard's page shows it.
pub(crate) fn lookup(name: &str, kind: &str) -> Result<String, String> {
    let kind = resolver::kind(kind).ok_or_else(|| format!("unknown type {kind:?}"))?;
    resolver::search(&Config::read(), name, kind, 53, false).map(|(_, answer)| text(&answer))
}

fn data(record: &Record) -> String {
    let line = record.to_string();
    line.splitn(5, ' ').nth(4).unwrap_or_default().to_owned()
}

/// dig's text of a message.
fn text(m: &Message) -> String {
    let mut flags = String::new();
    for (name, set) in [
        ("qr", m.flags.response),
        ("aa", m.flags.authoritative),
        ("tc", m.flags.truncated),
        ("rd", m.flags.recursion_desired),
        ("ra", m.flags.recursion_available),
        ("ad", m.flags.authentic),
        ("cd", m.flags.checking_disabled),
    ] {
        if set {
            flags.push(' ');
            flags.push_str(name);
        }
    }
    let mut out = format!(
        ";; ->>HEADER<<- opcode: QUERY, status: {}, id: {}\n;; flags:{flags}; QUERY: {}, ANSWER: {}, AUTHORITY: {}, ADDITIONAL: {}\n\n",
        rcode::name(m.rcode),
        m.id,
        m.questions.len(),
        m.answers.len(),
        m.authority.len(),
        m.additional.len()
    );
    out.push_str(";; QUESTION SECTION:\n");
    for q in &m.questions {
        out.push_str(&format!(";{}\tIN\t{}\n", q.name, rtype::name(q.rtype)));
    }
    for (title, records) in
        [("ANSWER", &m.answers), ("AUTHORITY", &m.authority), ("ADDITIONAL", &m.additional)]
    {
        if records.is_empty() {
            continue;
        }
        out.push_str(&format!("\n;; {title} SECTION:\n"));
        for r in records {
            let line = r.to_string();
            out.push_str(&line.splitn(5, ' ').collect::<Vec<_>>().join("\t"));
            out.push('\n');
        }
    }
    out.push('\n');
    out
}
