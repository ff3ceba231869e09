//! Signatures, against the RFCs' examples and by `ring`'s verification.

use base64::Engine;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sealane_dns::message::presentation::types_of;
use sealane_dns::message::{Data, Edns, Message, Record, rcode, rtype};
use sealane_dns::zone::dnssec::{Key, KeyError, Rrsig, Signer, Whole, outdated, signed_data};

use crate::{lines, name, records};

const NOW: u64 = 1_700_000_000;

fn private(algorithm: &str, secret: &str) -> String {
    format!("Private-key-format: v1.2\nAlgorithm: {algorithm}\nPrivateKey: {secret}\n")
}

fn key(public: &str, private: &str) -> Key {
    Key::parse("K.key", public, "K.private", private, &SystemRandom::new()).unwrap()
}

/// RFC 8080 section 6.1.
fn ed25519() -> Key {
    key(
        "example.com. 3600 IN DNSKEY 257 3 15 ( l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= )",
        &private("15 (ED25519)", "ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI="),
    )
}

const P256: &str = "example.net. 3600 IN DNSKEY 257 3 13 (
    GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edb
    krSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA== )";

/// RFC 6605 section 6.1.
fn p256() -> Key {
    key(P256, &private("13 (ECDSAP256SHA256)", "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ="))
}

fn rsa() -> Key {
    key(include_str!("rsa.key"), include_str!("rsa.private"))
}

/// Verifies a signature over records by the key in a DNSKEY record.
fn verify(dnskey: &Data, sig: &Record, set: &[Record]) -> bool {
    let (head, bytes) = Rrsig::from_data(&sig.data).unwrap();
    let (message, dnskey) = (signed_data(&head, set), dnskey.wire());
    let public = &dnskey[4..];
    let by = |algorithm: &'static dyn VerificationAlgorithm, public: &[u8]| {
        UnparsedPublicKey::new(algorithm, public).verify(&message, bytes).is_ok()
    };
    match head.algorithm {
        8 => {
            let (e, n) = public[1..].split_at(usize::from(public[0]));
            let public = rsa::PublicKeyComponents { n, e };
            public.verify(&signature::RSA_PKCS1_2048_8192_SHA256, &message, bytes).is_ok()
        }
        13 => by(&signature::ECDSA_P256_SHA256_FIXED, &[&[4], public].concat()),
        15 => by(&signature::ED25519, public),
        other => panic!("{other}"),
    }
}

#[test]
fn the_signature_of_rfc_8080() {
    let key = ed25519();
    assert_eq!((key.tag, key.is_ksk(), key.is_zsk()), (3613, true, false));
    let set = records("example.com.", "@ 3600 IN MX 10 mail");
    let sig = key
        .sign(&set, &name("example.com."), 3600, (1_438_207_200, 1_440_021_600), &SystemRandom::new())
        .unwrap();
    assert_eq!(
        sig.to_string(),
        "example.com. 3600 IN RRSIG MX 15 2 3600 20150819220000 20150729220000 3613 example.com. \
         oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngwcrqNAg=="
    );
    assert!(verify(&key.dnskey.data, &sig, &set));
}

#[test]
fn the_signature_of_rfc_6605() {
    let key = p256();
    assert_eq!(key.tag, 55_648);
    let set = records("example.net.", "www 3600 IN A 192.0.2.1");
    let theirs = records(
        "example.net.",
        "www 3600 IN RRSIG A 13 3 3600 20100909100439 20100812100439 55648 example.net. (
         qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXA yGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw== )",
    );
    assert!(verify(&key.dnskey.data, &theirs[0], &set));
    assert!(!verify(&key.dnskey.data, &theirs[0], &records("example.net.", "www 3600 IN A 192.0.2.2")));
    let ours = key.sign(&set, &name("example.net."), 3600, (1, 2), &SystemRandom::new()).unwrap();
    assert!(verify(&key.dnskey.data, &ours, &set));
}

#[test]
fn rsa_keys_sign() {
    let key = rsa();
    assert!(key.is_zsk());
    let set = records("example.org.", "a 5 TXT b\na 5 TXT a\na 5 TXT b");
    let sig = key.sign(&set, &name("example.org."), 3600, (1, 2), &SystemRandom::new()).unwrap();
    assert!(verify(&key.dnskey.data, &sig, &set));
}

#[test]
fn a_wildcard_s_signature_is_good_for_what_it_stands_for() {
    let key = p256();
    let set = records("example.net.", "*.w 5 MX 1 Mail");
    let mut sig = key.sign(&set, &name("example.net."), 3600, (1, 2), &SystemRandom::new()).unwrap();
    let mut asked = records("example.net.", "A.B.w 5 MX 1 mail");
    sig.name = asked[0].name.clone();
    assert!(verify(&key.dnskey.data, &sig, &asked));
    asked[0].data = Data::Mx(2, name("mail.example.net."));
    assert!(!verify(&key.dnskey.data, &sig, &asked));
}

#[test]
fn files_that_are_no_key_pair() {
    let parse = |public: &str, private: &str| {
        Key::parse("K.key", public, "K.private", private, &SystemRandom::new()).unwrap_err()
    };
    let good = private("13 (ECDSAP256SHA256)", "GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=");
    assert!(matches!(parse("x", &good), KeyError::Public(_)));
    assert_eq!(parse("a. 1 A 192.0.2.1", &good).to_string(), "K.key: there is no DNSKEY record");
    assert!(matches!(parse(P256, "Algorithm: 13"), KeyError::Format(_)));
    assert!(matches!(parse(P256, "Private-key-format: v1.2"), KeyError::Field(_, "PrivateKey")));
    let other = private("13 (ECDSAP256SHA256)", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=");
    assert!(matches!(parse(P256, &other), KeyError::Rejected(..)));
    assert!(matches!(parse("a. IN DNSKEY 256 3 5 AAAA", &good), KeyError::Algorithm(_, 5)));
}

fn signer(zone: &str, keys: Vec<Key>) -> Signer {
    Signer::new(vec![name(zone)], keys, 100).unwrap()
}

fn reply(question: &str, rtype: u16, code: u16, answer: &str, authority: &str) -> Message {
    let mut message = Message::query(1, name(question), rtype).reply(code);
    message.answers = records("example.net.", answer);
    message.authority = records("example.net.", authority);
    message
}

const SOA: &str = "@ 1800 SOA ns h 1 1 1 1 1";

/// The types of an NSEC and the next name.
fn nsec(message: &Message) -> (String, Vec<u16>) {
    let found =
        message.authority.iter().chain(&message.answers).find(|r| r.data.rtype() == rtype::NSEC).unwrap();
    let wire = found.data.wire();
    let len = wire.iter().position(|b| *b != 0).map_or(1, |_| {
        let mut at = 0;
        while wire[at] != 0 {
            at += 1 + usize::from(wire[at]);
        }
        at + 1
    });
    (sealane_dns::Name::from_wire(&wire[..len]).unwrap().to_string(), types_of(&wire[len..]).unwrap())
}

#[test]
fn positive_answers_are_signed_set_by_set() {
    let key = p256();
    let dnskey = key.dnskey.data.clone();
    let mut signer = signer("example.net.", vec![key]);
    let random = SystemRandom::new();
    let text = "www 60 CNAME web\nweb 50 A 192.0.2.1\nweb 50 A 192.0.2.2\nother. 1 A 192.0.2.3";
    let mut message = reply("WWW.example.net.", rtype::A, rcode::NOERROR, text, "@ 1 NS ns");
    signer.sign_message(&mut message, NOW, &random);
    assert_eq!((message.answers.len(), message.authority.len()), (6, 2));
    assert!(verify(&dnskey, &message.answers[4], &message.answers[0..1]));
    assert!(verify(&dnskey, &message.answers[5], &message.answers[1..3]));
    let head = Rrsig::from_data(&message.answers[5].data).unwrap().0;
    assert_eq!((head.original_ttl, message.answers[5].ttl), (3600, 50));
    assert_eq!(u64::from(head.inception), NOW - 3 * 3600);
    assert_eq!(u64::from(head.expiration), NOW + 8 * 86_400);
    // A second time from the cache, until less than two days are left.
    let again = |signer: &mut Signer, now| {
        let mut second = reply("www.example.net.", rtype::A, rcode::NOERROR, text, "@ 1 NS ns");
        signer.sign_message(&mut second, now, &random);
        lines(&second.answers)
    };
    assert_eq!(again(&mut signer, NOW + 6 * 86_400 - 1), lines(&message.answers));
    assert_eq!((signer.stats().hits, signer.stats().misses, signer.stats().entries), (3, 3, 3));
    assert_ne!(again(&mut signer, NOW + 6 * 86_400), lines(&message.answers));
}

#[test]
fn what_is_not_there_is_denied_by_a_lie() {
    let key = p256();
    let dnskey = key.dnskey.data.clone();
    let mut signer = signer("example.net.", vec![key]);
    let random = SystemRandom::new();
    let all = [1, 13, 16, 28, 29, 33, 37, 44, 46, 47, 52, 55, 61, 99];
    let mut sign = |question: &str, rtype: u16, code: u16| {
        let mut message = reply(question, rtype, code, "", SOA);
        signer.sign_message(&mut message, NOW, &random);
        message
    };
    let got = sign("nope.example.net.", rtype::A, rcode::NXDOMAIN);
    assert_eq!((got.rcode, got.authority.len()), (rcode::NOERROR, 4));
    assert_eq!(nsec(&got), ("\\000.nope.example.net.".to_owned(), all[1..].to_vec()));
    assert!(verify(&dnskey, &got.authority[1], &got.authority[0..1]));
    assert!(verify(&dnskey, &got.authority[2], &got.authority[3..4]));
    assert_eq!(got.authority[3].ttl, 1800);
    // MX is in none of the lists.
    assert_eq!(nsec(&sign("a.example.net.", rtype::MX, rcode::NOERROR)).1, all);
    let apex = nsec(&sign("example.net.", rtype::MX, rcode::NOERROR));
    assert_eq!(apex.1, [1, 2, 6, 13, 16, 28, 29, 33, 37, 44, 46, 47, 48, 52, 55, 61, 99]);
    assert!(nsec(&sign("a.example.net.", rtype::DS, rcode::NOERROR)).1.contains(&rtype::NS));
    let own = sign("a.example.net.", rtype::NSEC, rcode::NOERROR);
    assert_eq!((own.answers.len(), own.authority.len()), (2, 0));
    // A name that has no room for another label gets no denial, and keeps its signed SOA.
    let long =
        format!("{}.{}.{}.{}.example.net.", "a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(58));
    assert_eq!(sign(&long, rtype::A, rcode::NXDOMAIN).authority.len(), 2);
}

#[test]
fn referrals_carry_the_child_s_key_or_that_there_is_none() {
    let mut signer = signer("example.net.", vec![p256()]);
    let random = SystemRandom::new();
    let mut message = reply("a.sub.example.net.", rtype::A, rcode::NOERROR, "", "sub 60 NS ns.sub");
    signer.sign_message(&mut message, NOW, &random);
    assert_eq!(nsec(&message).0, "a\\000.sub.example.net.");
    let mut message =
        reply("sub.example.net.", rtype::A, rcode::NOERROR, "", "sub 60 NS ns.sub\nsub 60 DS 1 8 2 00");
    signer.sign_message(&mut message, NOW, &random);
    assert_eq!(message.authority.len(), 3);
    let head = Rrsig::from_data(&message.authority[2].data).unwrap().0;
    assert_eq!(head.covered, rtype::DS);
}

#[test]
fn keys_are_served_and_split() {
    let text = "example.net. IN DNSKEY 256 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";
    let zsk = key(text, &private("15 (ED25519)", "ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI="));
    let mut signer = signer("example.net.", vec![p256(), zsk]);
    let random = SystemRandom::new();
    let mut query = Message::query(1, name("example.net."), rtype::DNSKEY);
    assert_eq!(signer.dnskey(&query, NOW, &random).unwrap().answers.len(), 2);
    query.edns = Some(Edns { dnssec_ok: true, ..Edns::default() });
    let got = signer.dnskey(&query, NOW, &random).unwrap();
    let algorithm = |r: &Record| Rrsig::from_data(&r.data).unwrap().0.algorithm;
    assert_eq!((got.answers.len(), algorithm(&got.answers[2])), (3, 13));
    query.questions[0].name = name("a.example.net.");
    assert!(signer.dnskey(&query, NOW, &random).is_none());
    let mut message = reply("a.example.net.", rtype::A, rcode::NOERROR, "a 1 A 192.0.2.1", "");
    signer.sign_message(&mut message, NOW, &random);
    assert_eq!((message.answers.len(), algorithm(&message.answers[1])), (2, 15));
    let stranger = Signer::new(vec![name("other.")], vec![p256()], 1).unwrap_err();
    assert_eq!(stranger.to_string(), "key example.net. (tag 55648) can't sign any of the zones");
}

proptest! {
    /// Nothing in a key's files is too much for the parser.
    #[test]
    fn no_key_is_too_much(secret in prop::collection::vec(any::<u8>(), 0..70), public in prop::collection::vec(any::<u8>(), 0..70), algorithm in 0u8..20) {
        let encode = |octets: &[u8]| base64::engine::general_purpose::STANDARD.encode(octets);
        let public = format!("a. IN DNSKEY 256 3 {algorithm} {}", encode(&public));
        let secret = encode(&secret);
        let mut text = private("x", &secret);
        for field in ["PrivateExponent", "Prime1", "Prime2", "Exponent1", "Exponent2", "Coefficient"] {
            text += &format!("{field}: {secret}\n");
        }
        let _ = Key::parse("K.key", &public, "K.private", &text, &SystemRandom::new());
    }
}

/// RFC 4035 section 2: what is signed of a zone, and what is not.
#[test]
fn a_zone_is_signed_as_a_whole() {
    let text = "@ 60 SOA ns noc 1 2 3 4 30\n@ 60 NS ns\n@ 60 DNSKEY 257 3 15 AAAA\nns 90 A 192.0.2.1\nns 90 A 192.0.2.2\n\
                a.deep 60 TXT t\nsub 60 NS ns.sub\nsub 60 NS sub\nsub 60 DS 1 13 2 00\nsub 60 A 192.0.2.8\nns.sub 60 A 192.0.2.9\n\
                Z 60 CNAME ns\n*.w 60 TXT w\n";
    let zone = crate::zone("example.net.", text);
    let (keys, period) = ([p256(), ed25519()], (5, 900));
    // At once and in parts.
    let signed = |sets: usize| {
        let mut whole = Whole::new(&zone, &keys, 77, period).unwrap();
        while !whole.go_on(&keys, sets, &SystemRandom::new()).unwrap() {}
        whole.text().unwrap()
    };
    let text = signed(1000);
    assert_eq!(signed(3).lines().count(), text.lines().count());
    let all = records("example.net.", &text);
    assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), text.lines().collect::<Vec<_>>());
    let Data::Soa(soa) = &all[0].data else { panic!("{}", all[0]) };
    assert_eq!(soa.serial, 77);
    let of = |owner: &str, kind: u16| -> Vec<Record> {
        let name = name(owner);
        all.iter().filter(|r| r.name == name && r.data.rtype() == kind).cloned().collect()
    };
    assert_eq!(of("example.net.", rtype::DNSKEY).len(), 2, "the old one is gone");
    assert_eq!((of("example.net.", 59).len(), of("example.net.", 60).len()), (4, 2));
    let mut counted = 0;
    for sig in all.iter().filter(|r| r.data.rtype() == rtype::RRSIG) {
        let (head, _) = Rrsig::from_data(&sig.data).unwrap();
        let set = of(&sig.name.to_string(), head.covered);
        assert_eq!(
            (sig.ttl, head.original_ttl, head.inception, head.expiration),
            (set[0].ttl, set[0].ttl, 5, 900)
        );
        let key = keys.iter().find(|key| key.tag == head.key_tag).unwrap();
        assert!(verify(&key.dnskey.data, sig, &set), "{sig}");
        counted += 1;
    }
    let covered = |owner: &str| {
        let mut types: Vec<String> = of(owner, rtype::RRSIG)
            .iter()
            .map(|sig| rtype::name(Rrsig::from_data(&sig.data).unwrap().0.covered))
            .collect();
        types.sort();
        types.dedup();
        types.join(" ")
    };
    assert_eq!(covered("sub.example.net."), "DS NSEC");
    assert_eq!(covered("ns.sub.example.net."), "");
    assert_eq!(covered("ns.example.net."), "A NSEC");
    assert_eq!(covered("example.net."), "CDNSKEY CDS DNSKEY NS NSEC SOA");
    assert_eq!(counted, 2 * (6 + 2 + 2 + 2 + 2 + 2));
    // The chain goes around, names that hold nothing left out.
    let mut at = name("example.net.");
    let mut around = Vec::new();
    loop {
        let [nsec] = of(&at.to_string(), rtype::NSEC).try_into().unwrap();
        assert_eq!(nsec.ttl, 30);
        let shown = nsec.to_string();
        let words: Vec<&str> = shown.split(' ').skip(4).collect();
        around.push(words.join(" "));
        at = words[0].parse().unwrap();
        if at == name("example.net.") {
            break;
        }
    }
    assert_eq!(
        around,
        [
            "a.deep.example.net. NS SOA RRSIG NSEC DNSKEY CDS CDNSKEY",
            "ns.example.net. TXT RRSIG NSEC",
            "sub.example.net. A RRSIG NSEC",
            "*.w.example.net. NS DS RRSIG NSEC",
            "z.example.net. TXT RRSIG NSEC",
            "example.net. CNAME RRSIG NSEC",
        ]
    );
}

#[test]
fn when_a_zone_is_signed_again() {
    const DAY: u64 = 86_400;
    let zone = crate::zone("example.net.", "@ 60 SOA ns noc 1 2 3 4 30\n@ 60 NS ns\n");
    let keys = [p256()];
    let signed = |begins: u64, ends: u64| {
        let period = (u32::try_from(begins).unwrap(), u32::try_from(ends).unwrap());
        let mut whole = Whole::new(&zone, &keys, 1, period).unwrap();
        whole.go_on(&keys, 1000, &SystemRandom::new()).unwrap();
        whole.text().unwrap()
    };
    for (begins, ends, why) in [
        (NOW, NOW + 32 * DAY, None),
        (NOW - 6 * DAY, NOW + 7 * DAY, None),
        (NOW - 6 * DAY - 1, NOW + 32 * DAY, Some("began")),
        (NOW + 1, NOW + 32 * DAY, Some("begins in 1 s")),
        (NOW, NOW + 7 * DAY - 1, Some("ends in less")),
    ] {
        let got = outdated("db", &signed(begins, ends), NOW);
        assert_eq!(got.is_some(), why.is_some(), "{got:?}");
        assert!(why.is_none_or(|why| got.as_ref().unwrap().contains(why)), "{got:?}");
    }
    assert_eq!(outdated("db", "a. 1 A 192.0.2.1\n", NOW).unwrap(), "no SOA RRSIG found in first 100 records");
    assert!(outdated("db", "?", NOW).is_some());
}
