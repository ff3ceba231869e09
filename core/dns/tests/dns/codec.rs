//! The codec: whatever comes in never panics, and what is written is read again.

use proptest::prelude::*;
use sealane_dns::message::{Data, Edns, Flags, Question, Record, Soa};
use sealane_dns::{Message, Name, decode, encode};

fn name() -> impl Strategy<Value = Name> {
    let label = prop_oneof![
        4 => "[a-cA-C]{1,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..63),
    ];
    prop::collection::vec(label, 0..4)
        .prop_map(|labels| Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap())
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|b| Data::A(b.into())),
        any::<[u8; 16]>().prop_map(|b| Data::Aaaa(b.into())),
        name().prop_map(Data::Ns),
        name().prop_map(Data::Cname),
        name().prop_map(Data::Ptr),
        (any::<u16>(), name()).prop_map(|(p, n)| Data::Mx(p, n)),
        (any::<[u16; 3]>(), name()).prop_map(|([a, b, c], n)| Data::Srv(a, b, c, n)),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3)
            .prop_map(|s| Data::Txt(s.into_iter().map(Into::into).collect())),
        (name(), name(), any::<[u32; 5]>()).prop_map(|(mname, rname, n)| Data::Soa(Box::new(Soa {
            mname,
            rname,
            serial: n[0],
            refresh: n[1],
            retry: n[2],
            expire: n[3],
            minimum: n[4]
        }))),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|b| Data::Other(65_280, b.into())),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (name(), any::<u32>(), data()).prop_map(|(name, ttl, data)| Record::new(name, ttl, data));
    prop::collection::vec(record, 0..4)
}

fn edns() -> impl Strategy<Value = Option<Edns>> {
    let options = prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..9)), 0..3);
    prop::option::of((any::<u16>(), any::<bool>(), options).prop_map(|(udp_size, dnssec_ok, options)| Edns {
        udp_size,
        version: 0,
        dnssec_ok,
        options: options.into_iter().map(|(code, data)| (code, data.into())).collect(),
    }))
}

fn message() -> impl Strategy<Value = Message> {
    let head = (any::<u16>(), any::<[bool; 8]>(), 0u8..16, 0u16..16);
    (head, name(), any::<u16>(), records(), records(), records(), edns()).prop_map(
        |((id, bits, opcode, rcode), name, rtype, answers, authority, additional, edns)| Message {
            id,
            flags: Flags {
                response: bits[0],
                opcode,
                authoritative: bits[1],
                truncated: bits[2],
                recursion_desired: bits[3],
                recursion_available: bits[4],
                zero: bits[5],
                authentic: bits[6],
                checking_disabled: bits[7],
            },
            rcode,
            questions: vec![Question { name, rtype, class: 1 }],
            answers,
            authority,
            additional,
            edns,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(message in message()) {
        let bytes = encode(&message, 65_535);
        let again = decode(&bytes).unwrap();
        prop_assert_eq!(&again, &message);
        // Case is kept, which equality does not look at.
        prop_assert_eq!(again.questions[0].name.to_string(), message.questions[0].name.to_string());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = decode(&bytes) {
            let _ = decode(&encode(&message, 65_535));
        }
    }

    #[test]
    fn damaged_messages_are_read_or_refused(
        message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = encode(&message, 65_535);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_record(message in message(), limit in 512usize..700) {
        let mut message = message;
        message.flags.truncated = false;
        message.answers.extend((0..40).map(|i| Record::new(
            message.questions[0].name.clone(), i, Data::A([10, 0, 0, 1].into()))));
        let bytes = encode(&message, limit);
        prop_assert!(bytes.len() <= limit);
        let cut = decode(&bytes).unwrap();
        prop_assert!(message.answers.starts_with(&cut.answers));
        prop_assert_eq!(cut.flags.truncated, cut.answers.len() < message.answers.len()
            || cut.authority.len() < message.authority.len() || cut.additional.len() < message.additional.len());
        prop_assert_eq!(cut.edns, message.edns);
    }

    #[test]
    fn names_print_and_parse(name in name()) {
        prop_assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
    }

    #[test]
    fn any_text_is_a_name_or_none(text in ".{0,300}") {
        let _ = text.parse::<Name>();
    }
}

#[test]
fn pointers_that_do_not_go_back_are_refused() {
    let header = [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    // The header's third octet is 0, as the root's label would be; it is no name.
    let into_header = [0xc0, 2];
    let back_to_itself = [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[1, b'a', 0xc0, 12]];
    let no_place = [&into_header[..], &[0xc0, 200], &[0x80, 0], &[64]];
    for name in back_to_itself.into_iter().chain(no_place) {
        let bytes: Vec<u8> = header.iter().chain(name).chain(&[0, 1, 0, 1]).copied().collect();
        assert!(decode(&bytes).is_err(), "{name:?}");
    }
}

#[test]
fn chains_of_pointers_are_refused() {
    // In a record's data stand many pointers, each to the one before, the first to a question's root label.
    let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1];
    bytes.extend([0, 255, 0, 0, 1, 0, 0, 0, 0]);
    let length = bytes.len();
    bytes.extend([0, 0]);
    let mut to = 12u16;
    for _ in 0..150 {
        let here = u16::try_from(bytes.len()).unwrap();
        bytes.extend((0xc000 | to).to_be_bytes());
        to = here;
    }
    let data = u16::try_from(bytes.len() - length - 2).unwrap();
    bytes[length..length + 2].copy_from_slice(&data.to_be_bytes());
    assert!(decode(&bytes).is_ok());
    bytes[7] = 2;
    bytes.extend((0xc000 | to).to_be_bytes());
    bytes.extend([0, 255, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&bytes), Err(sealane_dns::message::DecodeError::BadName));
}

#[test]
fn names_are_compressed() {
    let owner: Name = "www.example.org".parse().unwrap();
    let mut message = Message::query(1, owner.clone(), 1);
    let plain = encode(&message, 512).len();
    message.answers.push(Record::new(owner, 1, Data::A([10, 0, 0, 1].into())));
    // A pointer, type, class, TTL, length, address.
    assert_eq!(encode(&message, 512).len(), plain + 2 + 2 + 2 + 4 + 2 + 4);
}
