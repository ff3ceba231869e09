//! Server blocks that differ in `bind` alone, asked of Sealane and of CoreDNS: the listener says which of them answers,
//! over every transport, and blocks that are in each other's way are refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// The tables of `dns_tables` use the rest of it.
#[allow(dead_code)]
mod dns;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use dns::codec::{Query, Reply, decode};
use dns::server::{Program, Server, ask_tcp, ask_udp};
use sealane_tests::{Machine, eventually, run};

/// The loopback has it beside 127.0.0.1 and ::1.
const MORE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 53);

/// How a question travels. Without a `tls` line no listener encrypts, CoreDNS's no more than Sealane's.
#[derive(Clone, Copy, Debug)]
enum By {
    Udp,
    Tcp,
    Http,
}

fn ask(by: By, to: SocketAddr) -> Result<Reply, String> {
    let query = Query { name: "x.example.".to_owned(), rtype: 1, class: 1, flags: 0x0100, edns: None };
    match by {
        By::Udp => ask_udp(to, &query),
        By::Tcp => ask_tcp(to, &[&query]).map(|replies| replies.into_iter().next().unwrap()),
        By::Http => {
            let message = query.encode(7);
            let head = format!(
                "POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                message.len()
            );
            let exchange = || {
                let mut stream = TcpStream::connect(to)?;
                stream.write_all(&[head.as_bytes(), &message].concat())?;
                let mut response = Vec::new();
                stream.read_to_end(&mut response)?;
                std::io::Result::Ok(response)
            };
            let response = exchange().map_err(|e| e.to_string())?;
            let end = response.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no HTTP response")?;
            decode(&response[end + 4..])
        }
    }
}

/// `1`: the answer is 192.0.2.1; the code where there is none.
fn short(reply: &Reply) -> String {
    match reply.sections[0].as_slice() {
        [] => reply.rcode.clone(),
        [record, ..] => record.rsplit_once("192.0.2.").map_or(record.clone(), |(_, last)| last.to_owned()),
    }
}

/// Blocks `KEYS: BIND` that answer 192.0.2.1, 192.0.2.2, … in their order.
fn corefile(blocks: &[&str]) -> String {
    let block = |(block, number): (&&str, u8)| {
        let (keys, bind) = block.rsplit_once(": ").unwrap();
        let bind = if bind == "-" { String::new() } else { format!(" bind {bind}\n") };
        format!(
            "{keys} {{\n{bind} template IN A {{\n  answer \"{{{{ .Name }}}} 60 IN A 192.0.2.{number}\"\n }}\n}}\n"
        )
    };
    blocks.iter().zip(1..).map(block).collect()
}

type Asked = (By, &'static str, &'static str);

/// What stands in the file, and who answers where.
const TOLD_APART: &[(&[&str], &[Asked])] = &[
    (
        &[".:5300: 127.0.0.1", ".:5300: 127.0.0.2"],
        &[
            (By::Udp, "127.0.0.1:5300", "1"),
            (By::Tcp, "127.0.0.1:5300", "1"),
            (By::Udp, "127.0.0.2:5300", "2"),
            (By::Tcp, "127.0.0.2:5300", "2"),
        ],
    ),
    // An interface has all of its addresses, but for those that are excepted.
    (
        &[".:5300: lo {\n  except 10.255.0.53\n }", ".:5300: 10.255.0.53"],
        &[
            (By::Udp, "127.0.0.1:5300", "1"),
            (By::Udp, "[::1]:5300", "1"),
            (By::Tcp, "[::1]:5300", "1"),
            (By::Udp, "10.255.0.53:5300", "2"),
            (By::Tcp, "10.255.0.53:5300", "2"),
        ],
    ),
    // The longest zone of those that listen there.
    (
        &["example:5300: 127.0.0.1", ".:5300: 127.0.0.1 127.0.0.2", "x.example:5300: 127.0.0.3"],
        &[
            (By::Udp, "127.0.0.1:5300", "1"),
            (By::Udp, "127.0.0.2:5300", "2"),
            (By::Tcp, "127.0.0.2:5300", "2"),
            (By::Udp, "127.0.0.3:5300", "3"),
        ],
    ),
    // All addresses, and one that another block has for itself.
    (
        &[".:5300: 0.0.0.0", ".:5300: 127.0.0.1"],
        &[
            (By::Udp, "127.0.0.1:5300", "2"),
            (By::Tcp, "127.0.0.1:5300", "2"),
            (By::Udp, "10.255.0.53:5300", "1"),
            (By::Tcp, "10.255.0.53:5300", "1"),
        ],
    ),
    (
        &["a.example:5300: 127.0.0.1", ".:5300: -"],
        &[
            (By::Udp, "127.0.0.1:5300", "REFUSED"),
            (By::Tcp, "127.0.0.1:5300", "REFUSED"),
            (By::Udp, "10.255.0.53:5300", "2"),
            (By::Tcp, "[::1]:5300", "2"),
        ],
    ),
    (
        &[
            "tls://.:5301: 127.0.0.1",
            "tls://.:5301: 127.0.0.2",
            "https://.:5302: 127.0.0.1",
            "https://.:5302: 127.0.0.2",
            // One port, two schemes.
            "https://.:5303: 127.0.0.1",
            ".:5303: 127.0.0.2",
            ".:5300: 127.0.0.1",
        ],
        &[
            (By::Tcp, "127.0.0.1:5301", "1"),
            (By::Tcp, "127.0.0.2:5301", "2"),
            (By::Http, "127.0.0.1:5302", "3"),
            (By::Http, "127.0.0.2:5302", "4"),
            (By::Http, "127.0.0.1:5303", "5"),
            (By::Tcp, "127.0.0.2:5303", "6"),
            (By::Udp, "127.0.0.2:5303", "6"),
            (By::Udp, "127.0.0.1:5300", "7"),
        ],
    ),
];

#[test]
fn the_listener_says_which_block_answers() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    machine.add_address(MORE);
    let mut wrong = Vec::new();
    for (blocks, rows) in TOLD_APART {
        for program in Program::ALL {
            let path = folder.path().join("Corefile");
            std::fs::write(&path, corefile(blocks)).unwrap();
            let mut server =
                Server::start(program.command(&machine, &path), folder.path().join(program.name()));
            for (by, to, expected) in *rows {
                let to: SocketAddr = to.parse().unwrap();
                // It may not listen yet.
                let found = eventually(&format!("an answer of {} at {to}", program.name()), || {
                    machine.within(|| ask(*by, to)).map_err(|why| format!("{why}\n{}", server.log()))
                });
                if short(&found) != *expected {
                    let found = short(&found);
                    wrong.push(format!(
                        "{}, {blocks:?}: {by:?} {to}: {found}, not {expected}",
                        program.name()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in the file, and what is said of it.
const REFUSED: &[(&[&str], &str)] = &[
    (&[".:5300: -", ".:5300: -"], "cannot serve dns://.:5300 - it is already defined"),
    (
        &[".:5300: 127.0.0.1", ".:5300: 127.0.0.2 127.0.0.1"],
        "cannot serve dns://.:5300 on 127.0.0.1 - it is already defined",
    ),
    (&["tls://.: lo", "tls://.: ::1"], "cannot serve tls://.:853 on ::1 - it is already defined"),
    (&[".:5300: 127.0.0.1 lo"], "cannot serve dns://.:5300 on 127.0.0.1 - it is already defined"),
    (
        &[".:5300: 127.0.0.1", ".:5300: -"],
        "cannot serve dns://.:5300 - zone overlap listener capacity with dns://.:5300 on 127.0.0.1",
    ),
    (
        &["a:5300 b:5300: -", "b:5300: ::1"],
        "cannot serve dns://b.:5300 on ::1 - zone overlap listener capacity with dns://b.:5300",
    ),
];

#[test]
fn blocks_in_each_others_way_are_refused() {
    let (machine, folder) = (Machine::new(), tempfile::tempdir().unwrap());
    for (blocks, said) in REFUSED {
        let path = folder.path().join("Corefile");
        std::fs::write(&path, corefile(blocks)).unwrap();
        for program in Program::ALL {
            let done = run(&mut program.command(&machine, &path), b"");
            assert_eq!(done.status.code(), Some(1), "{}: {done}", program.name());
            let all = format!("{}{}", done.stdout, done.stderr);
            assert!(all.contains(said), "{}: no {said:?} in {all}", program.name());
        }
    }
}
