//! `cache`: what is kept, for how long, and what is served when it has ended.

use sealane_dns::message::{Data, Flags, Record, Soa, rcode};
use sealane_dns::{Config, Effect, Event, Message, Name, Pending, Server, Transport, decode, encode};

use crate::cluster::{ask, at, query, server, show};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An upstream's answer in a few words: `A 300`, `CNAME 300`, `NXDOMAIN 60`, `NODATA 60`, `SERVFAIL`, `EMPTY`,
/// `OTHER` (another question), `TC`; `AD`.
fn answer(to: &Message, text: &str) -> Vec<u8> {
    let mut message = to.reply(rcode::NOERROR);
    message.flags = Flags { response: true, recursion_available: true, ..message.flags };
    let owner = to.questions[0].name.clone();
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        let mut ttl = || words.next().unwrap().parse().unwrap();
        let soa = Data::Soa(Box::new(Soa {
            mname: name("x"),
            rname: name("x"),
            serial: 1,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 10_000,
        }));
        match word {
            "A" => message.answers.push(Record::new(owner.clone(), ttl(), Data::A([192, 0, 2, 80].into()))),
            "CNAME" => {
                message.answers.push(Record::new(owner.clone(), ttl(), Data::Cname(name("target.example"))))
            }
            "NXDOMAIN" => {
                message.rcode = rcode::NXDOMAIN;
                message.authority.push(Record::new(name("example"), ttl(), soa));
            }
            "NODATA" => message.authority.push(Record::new(name("example"), ttl(), soa)),
            "SERVFAIL" => message.rcode = rcode::SERVFAIL,
            "EMPTY" => {}
            "OTHER" => message.questions[0].name = name("other.example"),
            "TC" => message.flags.truncated = true,
            "AD" => message.flags.authentic = true,
            other => panic!("{other}"),
        }
    }
    encode(&message, 4096)
}

struct Asked {
    message: Message,
    pending: Box<Pending>,
}

#[derive(Default)]
struct Out {
    reply: Option<String>,
    asked: Vec<Asked>,
    waits: Vec<Pending>,
}

fn out(effects: Vec<Effect>) -> Out {
    let mut out = Out::default();
    for effect in effects {
        match effect {
            Effect::Reply(bytes) => out.reply = Some(show(&decode(&bytes).unwrap())),
            Effect::Ask { message, pending, .. } => {
                out.asked.push(Asked { message: decode(&message).unwrap(), pending });
            }
            Effect::Wait { pending, .. } => out.waits.push(*pending),
            _ => {}
        }
    }
    out
}

/// A cache in front of an upstream that says what the test tells it to.
struct Cached(Server);

impl Cached {
    fn new(line: &str) -> Self {
        Cached(server(&format!(". {{\n{line}\nforward . 192.0.2.53\n}}")))
    }

    fn ask(&mut self, question: &str, millis: u64) -> Out {
        out(ask(&mut self.0, &query(question), Transport::Udp, at(millis)))
    }

    fn tell(&mut self, asked: Asked, text: &str, millis: u64) -> Out {
        if text == "DEAD" {
            let why = "i/o timeout".to_owned();
            let mut out = out(self.0.step(Event::Failed { pending: asked.pending, why }, at(millis)));
            // One upstream is asked until five seconds are over.
            while let Some(asked) = out.asked.pop() {
                let event = Event::Failed { pending: asked.pending, why: "i/o timeout".to_owned() };
                out = self::out(self.0.step(event, at(millis + 6000)));
            }
            return out;
        }
        let bytes = answer(&asked.message, text);
        out(self.0.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(millis)))
    }

    /// Asks, and has the upstream answer where it is asked; whether it was, and the reply.
    fn dig(&mut self, question: &str, millis: u64, text: &str) -> (bool, String) {
        let mut out = self.ask(question, millis);
        let Some(asked) = out.asked.pop() else { return (false, out.reply.unwrap()) };
        match out.reply {
            Some(reply) => {
                self.tell(asked, text, millis);
                (true, reply)
            }
            None => (true, self.tell(asked, text, millis).reply.unwrap()),
        }
    }

    /// What the client gets: `hit` or `miss`, and the TTL of the first record, or the code.
    fn brief(&mut self, question: &str, millis: u64, text: &str) -> String {
        let (asked, reply) = self.dig(question, millis, text);
        let line = reply.lines().nth(1).map(|line| line.trim_start_matches("N ").split(' ').nth(1).unwrap());
        format!("{} {}", if asked { "miss" } else { "hit" }, line.unwrap_or(reply.split(' ').next().unwrap()))
    }

    fn metric(&self, start: &str) -> f64 {
        let mut text = String::new();
        self.0.render_metrics(&mut text);
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

#[test]
fn how_long() {
    for (line, first, seconds, then) in [
        // No option: an hour and half an hour at most, five seconds at least.
        ("cache", ("A 300", "miss 300"), 299, "hit 1"),
        ("cache", ("A 300", "miss 300"), 300, "miss 300"),
        ("cache", ("A 9999", "miss 3600"), 1, "hit 3599"),
        ("cache", ("A 1", "miss 5"), 4, "hit 1"),
        ("cache", ("A 0", "miss 5"), 5, "miss 5"),
        ("cache", ("NXDOMAIN 9999", "miss 1800"), 1799, "hit 1"),
        ("cache", ("NODATA 60", "miss 60"), 59, "hit 1"),
        ("cache", ("NODATA 60", "miss 60"), 60, "miss 60"),
        ("cache", ("EMPTY", "miss NOERROR"), 4, "hit NOERROR"),
        ("cache", ("EMPTY", "miss NOERROR"), 5, "miss NOERROR"),
        ("cache", ("SERVFAIL", "miss SERVFAIL"), 4, "hit SERVFAIL"),
        ("cache", ("SERVFAIL", "miss SERVFAIL"), 5, "miss SERVFAIL"),
        ("cache 30", ("A 300", "miss 30"), 29, "hit 1"),
        ("cache 3", ("A 300", "miss 3"), 2, "hit 1"),
        ("cache 30", ("NXDOMAIN 300", "miss 30"), 30, "miss 30"),
        ("cache 30 {\n success 5000 100\n}", ("A 300", "miss 100"), 99, "hit 1"),
        ("cache 30 {\n success 5000 100\n}", ("NXDOMAIN 300", "miss 30"), 29, "hit 1"),
        ("cache {\n success 5000 100 50\n}", ("A 1", "miss 50"), 49, "hit 1"),
        ("cache {\n success 5000 100 0\n}", ("A 1", "miss 1"), 1, "miss 1"),
        ("cache {\n success 5000 100 0\n}", ("A 0", "miss 0"), 0, "miss 0"),
        ("cache {\n denial 1024 100 20\n}", ("NXDOMAIN 300", "miss 100"), 99, "hit 1"),
        ("cache {\n denial 1024 100 20\n}", ("NODATA 3", "miss 20"), 19, "hit 1"),
        ("cache {\n servfail 1m\n}", ("SERVFAIL", "miss SERVFAIL"), 59, "hit SERVFAIL"),
        ("cache {\n servfail 0\n}", ("SERVFAIL", "miss SERVFAIL"), 0, "miss SERVFAIL"),
        ("cache {\n keepttl\n}", ("A 300", "miss 300"), 299, "hit 300"),
        ("cache {\n keepttl\n}", ("A 300", "miss 300"), 300, "miss 300"),
        ("cache {\n disable success\n}", ("A 300", "miss 300"), 1, "miss 300"),
        ("cache {\n disable success\n}", ("NODATA 300", "miss 300"), 1, "hit 299"),
        ("cache {\n disable denial\n}", ("NODATA 300", "miss 300"), 1, "miss 300"),
        ("cache {\n disable denial other\n}", ("NODATA 300", "miss 300"), 1, "hit 299"),
        ("cache {\n disable success other example\n}", ("A 300", "miss 300"), 1, "miss 300"),
        ("cache example", ("A 300", "miss 300"), 1, "hit 299"),
        ("cache 30 example.net", ("A 300", "miss 300"), 1, "miss 300"),
        // What is not kept: cut answers, answers to other questions, aliases that lead nowhere.
        ("cache", ("A 300 TC", "miss 300"), 1, "miss 300"),
        ("cache", ("CNAME 300", "miss 300"), 1, "miss 300"),
        ("cache", ("CNAME 300 NODATA 60", "miss 60"), 1, "hit 59"),
        ("cache", ("NXDOMAIN 60 A 60", "miss 5"), 1, "miss 5"),
    ] {
        let mut cached = Cached::new(line);
        assert_eq!(cached.brief("a.example A", 0, first.0), first.1, "{line}: {}", first.0);
        assert_eq!(
            cached.brief("A.example A", seconds * 1000, first.0),
            then,
            "{line}: {} {seconds}",
            first.0
        );
    }
}

#[test]
fn keys_and_bits() {
    let mut cached = Cached::new("cache");
    cached.brief("a.example A", 0, "A 300");
    // DO, CD and types are apart; the name's case is not.
    for question in ["a.example A +do", "a.example A +cd", "a.example AAAA"] {
        assert!(cached.ask(question, 0).asked.len() == 1, "{question}");
    }
    assert_eq!(cached.brief("A.EXAMPLE A", 0, ""), "hit 300");
    // Those behind are asked whether it is authentic; clients that did not ask are not told.
    let mut cached = Cached::new("cache");
    let asked = cached.ask("b.example A", 0).asked.pop().unwrap();
    let reply = cached.tell(asked, "A 300 AD", 0).reply.unwrap();
    assert!(reply.starts_with("NOERROR rd,ra\n"), "{reply}");
    assert!(cached.ask("b.example A", 0).reply.unwrap().starts_with("NOERROR aa,rd,ra\n"));
    let mut wants = query("b.example A");
    wants.flags.authentic = true;
    let reply = out(ask(&mut cached.0, &wants, Transport::Udp, at(0))).reply.unwrap();
    assert!(reply.starts_with("NOERROR aa,rd,ra,ad\n"), "{reply}");
    let (_, reply) = cached.dig("b.example A +do", 0, "A 300 AD");
    assert!(reply.starts_with("NOERROR rd,ra,ad\n"), "{reply}");
}

#[test]
fn prefetches_what_is_popular() {
    for (line, hits, when) in
        [("prefetch 3", 3, 90), ("prefetch 1 10m 90%", 1, 10), ("prefetch 2 1m 20%", 2, 80)]
    {
        let mut cached = Cached::new(&format!("cache {{\n{line}\n}}"));
        cached.brief("a.example A", 0, "A 100");
        for hit in 1..hits {
            assert!(cached.ask("a.example A", when * 1000 - hit).asked.is_empty(), "{line}");
        }
        assert!(cached.ask("a.example A", when * 1000 - 1).asked.is_empty() || hits == 1, "{line}");
        let mut out = cached.ask("a.example A", when * 1000);
        assert!(out.reply.is_some());
        let asked = out.asked.pop().expect(line);
        // One is enough.
        assert!(cached.ask("a.example A", when * 1000).asked.is_empty());
        assert!(cached.tell(asked, "A 100", when * 1000).reply.is_none());
        assert_eq!(cached.brief("a.example A", when * 1000 + 1000, ""), "hit 99");
        assert_eq!(cached.metric("coredns_cache_prefetch_total{"), 1.0);
        // It is popular still.
        assert_eq!(
            cached.ask("a.example A", when * 1000 + 95_000).asked.len(),
            usize::from(line.starts_with("prefetch 1 "))
        );
    }
    // A gap begins the count anew.
    let mut cached = Cached::new("cache {\n prefetch 2 10s 90%\n}");
    cached.brief("a.example A", 0, "A 100");
    for seconds in [15, 30, 45] {
        assert!(cached.ask("a.example A", seconds * 1000).asked.is_empty());
    }
    assert_eq!(cached.ask("a.example A", 46_000).asked.len(), 1);
    let mut cached = Cached::new("cache {\n prefetch 0\n}");
    cached.brief("a.example A", 0, "A 100");
    assert!(cached.ask("a.example A", 99_000).asked.is_empty());
}

#[test]
fn stale_answers_at_once() {
    let mut cached = Cached::new("cache {\n serve_stale\n}");
    cached.brief("a.example A", 0, "A 10");
    let mut out = cached.ask("a.example A", 10_000);
    assert_eq!(out.reply.as_deref(), Some("NOERROR aa,rd,ra\na.example. 0 IN A 192.0.2.80"));
    assert!(cached.ask("a.example A", 10_001).asked.is_empty(), "one asks for all");
    // A failure changes nothing, and the next one asks again.
    cached.tell(out.asked.pop().unwrap(), "SERVFAIL", 10_002);
    let mut out = cached.ask("a.example A", 11_000);
    cached.tell(out.asked.pop().unwrap(), "DEAD", 11_000);
    let mut out = cached.ask("a.example A", 18_000);
    cached.tell(out.asked.pop().unwrap(), "A 20", 18_000);
    assert_eq!(cached.brief("a.example A", 19_000, ""), "hit 19");
    assert_eq!(cached.metric("coredns_cache_served_stale_total{"), 4.0);
    // An hour later it is over.
    assert_eq!(cached.brief("a.example A", 38_000 + 3_600_000, "A 7"), "miss 7");
    let mut cached = Cached::new("cache {\n serve_stale 30s\n}");
    cached.brief("a.example A", 0, "A 10");
    assert_eq!(cached.ask("a.example A", 39_000).asked.len(), 1);
    assert!(cached.ask("a.example A", 40_000).reply.is_none());
    // TTL and time between failures.
    let mut cached = Cached::new("cache {\n serve_stale 1h immediate 30s 20s\n}");
    cached.brief("a.example A", 0, "A 10");
    let mut out = cached.ask("a.example A", 10_000);
    assert!(out.reply.unwrap().contains(" 30 IN A "));
    cached.tell(out.asked.pop().unwrap(), "SERVFAIL", 10_000);
    assert!(cached.ask("a.example A", 29_999).asked.is_empty());
    assert_eq!(cached.ask("a.example A", 30_000).asked.len(), 1);
    let mut cached = Cached::new("cache {\n serve_stale\n keepttl\n}");
    cached.brief("a.example A", 0, "A 10");
    assert!(cached.ask("a.example A", 20_000).reply.unwrap().contains(" 10 IN A "));
}

#[test]
fn stale_answers_after_a_look() {
    let mut cached = Cached::new("cache {\n serve_stale 1h verify\n}");
    cached.brief("a.example A", 0, "A 10");
    let stale = "a.example. 0 IN A 192.0.2.80";
    for failure in ["SERVFAIL", "DEAD", "A 5 TC"] {
        let (asked, reply) = cached.dig("a.example A", 20_000, failure);
        assert!(asked && reply.contains(stale), "{failure}: {reply}");
    }
    assert_eq!(cached.brief("a.example A", 30_000, "NXDOMAIN 60"), "miss 60");
    assert_eq!(cached.brief("a.example A", 31_000, ""), "hit 59");
    // With a time to look: the answer, where it comes in time …
    let mut cached = Cached::new("cache {\n serve_stale 1h verify 100ms 3s\n}");
    cached.brief("a.example A", 0, "A 10");
    let mut out = cached.ask("a.example A", 20_000);
    assert!(out.reply.is_none());
    assert!(cached.tell(out.asked.pop().unwrap(), "A 50", 20_030).reply.is_none());
    let reply = self::out(cached.0.step(Event::Waited(Box::new(out.waits.pop().unwrap())), at(20_035))).reply;
    assert!(reply.unwrap().contains("a.example. 50 IN A"));
    // … the stale one where it fails or does not come, and what comes late is for the next one.
    cached.brief("b.example A", 0, "A 10");
    let mut out = cached.ask("b.example A", 20_000);
    let asked = out.asked.pop().unwrap();
    let mut out = self::out(cached.0.step(Event::Waited(Box::new(out.waits.pop().unwrap())), at(20_005)));
    assert!(out.reply.is_none());
    let out = self::out(cached.0.step(Event::Waited(Box::new(out.waits.pop().unwrap())), at(20_100)));
    assert!(out.reply.unwrap().contains("b.example. 3 IN A"));
    cached.tell(asked, "A 70", 20_500);
    assert_eq!(cached.brief("b.example A", 20_500, ""), "hit 70");
    let mut out = cached.ask("b.example A", 120_000);
    cached.tell(out.asked.pop().unwrap(), "SERVFAIL", 120_020);
    let out = self::out(cached.0.step(Event::Waited(Box::new(out.waits.pop().unwrap())), at(120_020)));
    assert!(out.reply.unwrap().contains("b.example. 3 IN A"));
    // While a failure is remembered nobody looks.
    let mut cached = Cached::new("cache {\n serve_stale 1h verify 0 30s 30s\n}");
    cached.brief("a.example A", 0, "A 10");
    assert!(cached.dig("a.example A", 20_000, "SERVFAIL").1.contains(" 30 IN A "));
    let out = cached.ask("a.example A", 49_999);
    assert!(out.asked.is_empty() && out.reply.unwrap().contains(" 30 IN A "));
    assert_eq!(cached.ask("a.example A", 50_000).asked.len(), 1);
}

#[test]
fn positive_answers_may_be_preferred() {
    let mut plain = Cached::new("cache {\n serve_stale 1h verify\n}");
    let mut prefers = Cached::new("cache {\n serve_stale 1h verify\n serve_stale_policy prefer_positive\n}");
    for cached in [&mut plain, &mut prefers] {
        cached.brief("a.example A", 0, "A 10");
    }
    assert_eq!(plain.brief("a.example A", 20_000, "NXDOMAIN 60"), "miss 60");
    for failure in ["NXDOMAIN 60", "NODATA 60", "SERVFAIL", "EMPTY", "CNAME 60"] {
        assert_eq!(prefers.brief("a.example A", 20_000, failure), "miss 0", "{failure}");
    }
    assert_eq!(prefers.brief("a.example A", 21_000, "A 40"), "miss 40");
    assert_eq!(prefers.brief("a.example A", 22_000, ""), "hit 39");
}

#[test]
fn a_failure_hides_no_answer() {
    let mut cached = Cached::new("cache {\n serve_stale\n servfail 1m\n}");
    cached.brief("a.example A", 0, "A 10");
    assert_eq!(cached.brief("a.example A", 3_700_000, "SERVFAIL"), "miss SERVFAIL");
    cached.brief("b.example A", 0, "SERVFAIL");
    assert_eq!(cached.brief("b.example A", 59_000, "A 10"), "hit SERVFAIL");
}

#[test]
fn counts() {
    let mut cached = Cached::new("cache 60 example example.net {\n success 1000\n denial 2000\n}");
    // 1000 are 1024, 2000 are 1792: shelves of one size.
    for i in 0..1030 {
        cached.brief(&format!("{i}.example A"), 0, "A 300");
    }
    for i in 0..1795 {
        cached.brief(&format!("{i}.example.net A"), 0, "NXDOMAIN 300");
    }
    cached.brief("1029.example A", 0, "");
    let asked = cached.ask("x.example A", 0).asked.pop().unwrap();
    let bytes = answer(&asked.message, "A 60 OTHER");
    cached.0.step(Event::Answer { pending: asked.pending, bytes: &bytes }, at(0));
    let labels = "server=\"dns://:53\",zones=\"example.,example.net.\",view=\"\"";
    for (family, kind, count) in [
        ("requests_total", "", 2827.0),
        ("misses_total", "", 2826.0),
        ("hits_total", "success", 1.0),
        ("entries", "success", 1024.0),
        ("entries", "denial", 1792.0),
        ("evictions_total", "success", 6.0),
        ("evictions_total", "denial", 3.0),
    ] {
        let kind = if kind.is_empty() { String::new() } else { format!(",type=\"{kind}\"") };
        let line = format!("coredns_cache_{family}{{{labels}{kind}}}");
        assert_eq!(cached.metric(&line), count, "{line}");
    }
}

#[test]
fn refused_lines() {
    for (line, message) in [
        ("cache 0", "2:7: a TTL of 0 would turn it off; leave the line out instead"),
        ("cache {\nsuccess\n}", "3:1: 'success' needs a capacity"),
        ("cache {\nsuccess -1\n}", "3:9: '-1' is no capacity"),
        ("cache {\nsuccess 1024 0\n}", "3:14: a TTL of 0 would turn it off; leave the line out instead"),
        ("cache {\ndenial 1024 5 -1\n}", "3:15: '-1' is no number of seconds"),
        ("cache {\ndenial 1 2 3 4\n}", "3:14: 'denial' takes no '4'"),
        ("cache {\nprefetch\n}", "3:1: 'prefetch' needs an amount"),
        ("cache {\nprefetch -1\n}", "3:10: '-1' is no amount"),
        ("cache {\nprefetch 1 1m 9%\n}", "3:15: a percentage lies between 10% and 90%"),
        ("cache {\nprefetch 1 1m 50\n}", "3:15: a percentage lies between 10% and 90%"),
        ("cache {\nserve_stale x\n}", "3:13: 'x' is no duration (5s, 1m30s, 500ms)"),
        ("cache {\nserve_stale 1h maybe\n}", "3:16: 'maybe' is no refresh mode (immediate, verify)"),
        ("cache {\nserve_stale 1h immediate 1500ms\n}", "3:26: a TTL is a whole number of seconds"),
        ("cache {\nserve_stale 1h immediate 1s 1s 1s\n}", "3:32: 'serve_stale' takes no '1s'"),
        (
            "cache {\nserve_stale 1h verify 0 1s 6m\n}",
            "3:28: a failed refresh is tried again after 5m at most (RFC 8767 section 5)",
        ),
        ("cache {\nserve_stale_policy prefer_positive\n}", "3:1: 'serve_stale_policy' needs 'serve_stale'"),
        ("cache {\nserve_stale_policy x\n}", "3:20: 'x' is no policy (prefer_positive)"),
        ("cache {\nservfail 6m\n}", "3:1: 'servfail' lasts 5m at most (RFC 2308 section 7)"),
        ("cache {\ndisable\n}", "3:1: 'disable' needs success or denial"),
        ("cache {\ndisable x\n}", "3:1: 'disable' needs success or denial"),
        ("cache {\nkeepttl 1\n}", "3:9: 'keepttl' takes no '1'"),
    ] {
        let text = format!(". {{\n{line}\n}}");
        let error = Config::parse("Corefile", &text, &Default::default(), 53).unwrap_err().to_string();
        assert_eq!(error, format!("Corefile:{message}"), "{line}");
    }
}
