//! What a query costs on the general path: one that the cache answers, and one that an upstream answers.
//! `cargo bench -p sealane-dnsserver --bench paths`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sealane_dns::message::{Data, Record};
use sealane_dns::{Config, Effect, Event, Message, Now, Server, Transport, decode, encode};

const COREFILE: &str = ".:53 {\n errors\n prometheus\n cache 3600\n forward . 192.0.2.1\n}";
const QUERIES: u32 = 200_000;

fn now(count: u32) -> Now {
    let random = u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Now { monotonic: Duration::from_micros(u64::from(count)), unix: 1_700_000_000, random, ..Now::default() }
}

fn ask(server: &mut Server, client: SocketAddr, bytes: &[u8], count: u32) -> Vec<Effect> {
    server.step(Event::Query { server: 53.into(), transport: Transport::Udp, client, bytes }, now(count))
}

fn answer(server: &mut Server, effects: Vec<Effect>, count: u32) {
    let Some(Effect::Ask { message, pending, .. }) = effects.into_iter().next() else {
        panic!("asks nobody")
    };
    let query = decode(&message).unwrap();
    let mut reply = query.reply(0);
    reply.answers.push(Record::new(query.questions[0].name.clone(), 3600, Data::A([192, 0, 2, 80].into())));
    let bytes = encode(&reply, 512);
    server.step(Event::Answer { pending, bytes: &bytes }, now(count));
}

fn query(name: &str) -> Vec<u8> {
    encode(&Message::query(7, name.parse().unwrap(), 1), 512)
}

fn main() {
    let config = Config::parse("Corefile", COREFILE, &Default::default(), 53).unwrap();
    let mut server = Server::new(config, vec![], Now::default());
    let client = "10.244.0.9:4242".parse().unwrap();
    let queries: Vec<Vec<u8>> = (0..1000).map(|i| query(&format!("n{i}.www.example.com"))).collect();
    for bytes in &queries {
        let effects = ask(&mut server, client, bytes, 0);
        answer(&mut server, effects, 0);
    }
    let begun = Instant::now();
    for count in 0..QUERIES {
        let effects = ask(&mut server, client, &queries[count as usize % queries.len()], count);
        assert!(matches!(effects.as_slice(), [Effect::Reply(_)]));
    }
    println!("cached: {:?} a query", begun.elapsed() / QUERIES);
    let queries: Vec<Vec<u8>> = (0..QUERIES / 4).map(|i| query(&format!("f{i}.www.example.com"))).collect();
    let begun = Instant::now();
    for (count, bytes) in (0..).zip(&queries) {
        let effects = ask(&mut server, client, bytes, count);
        answer(&mut server, effects, count);
    }
    println!("forwarded: {:?} a query, the upstream's own work included", begun.elapsed() / (QUERIES / 4));
}
