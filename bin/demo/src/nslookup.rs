//! `nslookup NAME [SERVER]`, with a prompt where there is no name; BIND's output.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use sealane_dns::message::{Data, Message, Record, rcode, rtype};

use crate::resolver::{self, Config};

struct Session {
    config: Config,
    kind: Option<u16>,
    port: u16,
}

/// The program.
pub(crate) fn main(arguments: Vec<String>) -> Result<ExitCode, String> {
    let mut session = Session { config: Config::read(), kind: None, port: 53 };
    let mut words = Vec::new();
    for argument in arguments {
        match argument.strip_prefix('-') {
            Some(setting) if !setting.is_empty() => session.set(setting)?,
            _ => words.push(argument),
        }
    }
    if let Some(server) = words.get(1) {
        session.server(server)?;
    }
    match words.first() {
        Some(name) => Ok(if session.look_up(name)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        None => session.prompt(),
    }
}

impl Session {
    fn set(&mut self, setting: &str) -> Result<(), String> {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        match key {
            "query" | "type" | "querytype" | "q" | "ty" => {
                self.kind =
                    Some(resolver::kind(value).ok_or_else(|| format!("unknown query type: {value}"))?);
            }
            "port" => self.port = value.parse().map_err(|_| format!("bad port: {value}"))?,
            // debug, timeout and the like change nothing that is printed here.
            _ => {}
        }
        Ok(())
    }

    fn server(&mut self, name: &str) -> Result<(), String> {
        self.config.servers = match name.parse() {
            Ok(address) => vec![address],
            Err(_) => resolver::addresses(name)?,
        };
        Ok(())
    }

    fn prompt(&mut self) -> Result<ExitCode, String> {
        let mut line = String::new();
        loop {
            if std::io::stdin().is_terminal() {
                print!("> ");
            }
            std::io::stdout().flush().map_err(|e| e.to_string())?;
            line.clear();
            if std::io::stdin().lock().read_line(&mut line).map_err(|e| e.to_string())? == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            let mut words = line.split_whitespace();
            let result = match (words.next(), words.next()) {
                (None, _) => Ok(()),
                (Some("exit" | "quit"), _) => return Ok(ExitCode::SUCCESS),
                (Some("set"), Some(setting)) => self.set(setting),
                (Some("server"), Some(server)) => self.server(server),
                (Some(name), _) => self.look_up(name).map(|_| ()),
            };
            if let Err(why) = result {
                println!("*** {why}");
            }
        }
    }

    /// Whether there was an answer.
    fn look_up(&self, name: &str) -> Result<bool, String> {
        if let (Ok(address), None) = (name.parse::<IpAddr>(), self.kind) {
            let name = resolver::reverse(address);
            let (_, answer) = resolver::search(&self.config, &name, rtype::PTR, self.port, false)?;
            return Ok(show(&answer, name.trim_end_matches('.')));
        }
        let kind = self.kind.unwrap_or(rtype::A);
        let (server, answer) = resolver::search(&self.config, name, kind, self.port, false)?;
        head(server);
        let found = show(&answer, name);
        // Without a type, BIND's nslookup asks for both families.
        if self.kind.is_none()
            && answer.rcode == rcode::NOERROR
            && let Some(question) = answer.questions.first()
            && let Ok(second) = resolver::ask(server, &question.name.to_string(), rtype::AAAA, false)
        {
            second.answers.iter().filter(|r| matches!(r.data, Data::Aaaa(_))).for_each(line);
        }
        println!();
        Ok(found)
    }
}

fn head(server: SocketAddr) {
    println!("Server:\t\t{}\nAddress:\t{}#{}\n", server.ip(), server.ip(), server.port());
}

fn plain(name: &dyn std::fmt::Display) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

fn show(answer: &Message, name: &str) -> bool {
    if answer.rcode != rcode::NOERROR {
        println!("** server can't find {}: {}", name.trim_end_matches('.'), rcode::name(answer.rcode));
        return false;
    }
    if answer.answers.is_empty() {
        println!("*** Can't find {}: No answer", name.trim_end_matches('.'));
        return false;
    }
    answer.answers.iter().for_each(line);
    true
}

fn line(record: &Record) {
    let owner = plain(&record.name);
    match &record.data {
        Data::A(address) => println!("Name:\t{owner}\nAddress: {address}"),
        Data::Aaaa(address) => println!("Name:\t{owner}\nAddress: {address}"),
        Data::Ptr(target) => println!("{owner}\tname = {target}"),
        Data::Cname(target) => println!("{owner}\tcanonical name = {target}"),
        Data::Ns(target) => println!("{owner}\tnameserver = {target}"),
        Data::Mx(preference, target) => println!("{owner}\tmail exchanger = {preference} {target}"),
        Data::Srv(priority, weight, port, target) => {
            println!("{owner}\tservice = {priority} {weight} {port} {target}");
        }
        Data::Txt(_) => {
            let whole = record.to_string();
            println!("{owner}\ttext = {}", whole.split_once(" TXT ").map_or("", |(_, t)| t));
        }
        _ => println!("{record}"),
    }
}
