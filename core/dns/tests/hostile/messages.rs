//! Messages of strangers: such as have every part that a message may have, and then something wrong with them.

use crate::random::Random;

/// Types whose data has a form, and some that have none here.
const TYPES: [u16; 30] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 21, 26, 28, 33, 35, 36, 39, 41, 46, 64, 250, 252,
    255, 65_280,
];
const COUNTS: [u16; 6] = [0, 1, 2, 3, 255, 65_535];

/// A message under construction.
struct Draft {
    out: Vec<u8>,
    /// Where labels begin.
    labels: Vec<u16>,
}

impl Draft {
    fn u16(&mut self, n: u16) {
        self.out.extend(n.to_be_bytes());
    }

    /// Labels, and a root label or a pointer: mostly to a label before, now and then anywhere.
    fn name(&mut self, random: &mut Random) {
        let (long, before) = (random.one_in(40), self.labels.len());
        for _ in 0..random.below(if long { 130 } else { 5 }) {
            if let Ok(here) = u16::try_from(self.out.len())
                && here < 0x4000
            {
                self.labels.push(here);
            }
            let len = if random.one_in(30) { 63 } else { 1 + random.below(4) };
            self.out.push(len as u8);
            for _ in 0..len {
                let odd = random.one_in(50);
                self.out.push(if odd { random.octet() } else { *random.pick(b"abcABC-_09") });
            }
        }
        let here = self.out.len() as u16;
        match random.below(400) {
            // Beyond the end, to itself, just behind, into the header, a label type that there is not.
            0 => self.u16(0xc000 | random.u16()),
            1 => self.u16(0xc000 | here & 0x3fff),
            2 => self.u16(0xc000 | (here + 2) & 0x3fff),
            3 => self.u16(0xc000 | random.below(12) as u16),
            4 => self.u16(0x4000 | random.u16() & 0xbfff),
            5..=180 if before > 0 => {
                let to = *random.pick(&self.labels[..before]);
                self.u16(0xc000 | to);
            }
            _ => self.out.push(0),
        }
    }

    fn strings(&mut self, random: &mut Random, least: usize) {
        for _ in 0..least + random.below(3) {
            let text = random.octets(6);
            self.out.push(text.len() as u8);
            self.out.extend(text);
        }
    }

    /// Data of a type, as its RFC has it.
    fn data(&mut self, random: &mut Random, rtype: u16) {
        let octets = |random: &mut Random, n: usize| (0..n).map(|_| random.octet()).collect::<Vec<_>>();
        match rtype {
            1 => self.out.extend(octets(random, 4)),
            28 => self.out.extend(octets(random, 16)),
            2..=5 | 7..=9 | 12 | 39 => self.name(random),
            6 | 14 | 17 => {
                self.name(random);
                self.name(random);
                if rtype == 6 {
                    self.out.extend(octets(random, 20));
                }
            }
            15 | 18 | 21 | 36 | 26 => {
                self.out.extend(octets(random, 2));
                self.name(random);
                if rtype == 26 {
                    self.name(random);
                }
            }
            16 => {
                let least = usize::from(!random.one_in(8));
                self.strings(random, least);
            }
            33 => {
                self.out.extend(octets(random, 6));
                self.name(random);
            }
            41 => self.options(random),
            _ => self.out.extend(random.octets(40)),
        }
    }

    /// EDNS options: known ones, padding, too long ones.
    fn options(&mut self, random: &mut Random) {
        for _ in 0..random.below(4) {
            let code = *random.pick(&[3, 8, 9, 10, 11, 12, 15, 65_001]);
            let most = if random.one_in(10) { 300 } else { 12 };
            let data = random.octets(most);
            self.u16(code);
            let len = if random.one_in(200) { random.u16() } else { data.len() as u16 };
            self.u16(len);
            self.out.extend(data);
        }
    }

    fn record(&mut self, random: &mut Random, rtype: u16) {
        if rtype == 41 && !random.one_in(20) {
            self.out.push(0);
        } else {
            self.name(random);
        }
        self.u16(rtype);
        let class = match rtype {
            41 => *random.pick(&[0, 512, 1232, 4096, 65_535]),
            _ => *random.pick(&[1, 1, 1, 1, 1, 3, 254, 255]),
        };
        self.u16(class);
        let ttl = match rtype {
            41 if random.one_in(10) => random.u32(),
            41 => *random.pick(&[0, 0x8000]),
            _ => *random.pick(&[0, 5, 30, 3600, 0x7fff_ffff, 0xffff_ffff]),
        };
        self.out.extend(ttl.to_be_bytes());
        let length = self.out.len();
        self.u16(0);
        self.data(random, rtype);
        let len = (self.out.len() - length - 2) as u16;
        let len = match random.below(400) {
            0 => random.u16(),
            1 => len.wrapping_add(1),
            2 => len.wrapping_sub(1),
            3 => 0,
            _ => len,
        };
        self.out[length..length + 2].copy_from_slice(&len.to_be_bytes());
    }
}

/// Any message at all.
pub fn any(random: &mut Random) -> Vec<u8> {
    if random.one_in(20) {
        let most = if random.one_in(10) { 4096 } else { 64 };
        return random.octets(most);
    }
    let mut draft = Draft { out: Vec::new(), labels: Vec::new() };
    for _ in 0..2 {
        draft.u16(random.u16());
    }
    let mut counts = [1, random.below(4), random.below(3), random.below(4)];
    if random.one_in(10) {
        counts[0] = random.below(4);
    }
    for count in counts {
        draft.u16(count as u16);
    }
    for _ in 0..counts[0] {
        draft.name(random);
        draft.u16(*random.pick(&TYPES));
        draft.u16(*random.pick(&[1, 1, 1, 3, 255]));
    }
    for (section, count) in counts.into_iter().enumerate().skip(1) {
        for _ in 0..count {
            let opt = section == 3 && random.one_in(2);
            let rtype = if opt { 41 } else { *random.pick(&TYPES) };
            draft.record(random, rtype);
        }
    }
    let mut out = draft.out;
    if random.one_in(3) {
        damage(random, &mut out);
    }
    out
}

/// One to three wounds.
pub fn damage(random: &mut Random, message: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if message.is_empty() {
            return;
        }
        let at = random.below(message.len());
        match random.below(8) {
            0 => message[at] = random.octet(),
            1 => message[at] ^= 1 << random.below(8),
            2 => message.truncate(at),
            3 => message.extend(random.octets(20)),
            4 if message.len() >= 12 => {
                let count = random.pick(&COUNTS).to_be_bytes();
                let place = 4 + 2 * random.below(4);
                message[place..place + 2].copy_from_slice(&count);
            }
            5 if at + 2 <= message.len() => {
                let pointer = (0xc000 | random.below(message.len() + 4) as u16).to_be_bytes();
                message[at..at + 2].copy_from_slice(&pointer);
            }
            6 => {
                let end = (at + random.below(16)).min(message.len());
                message.drain(at..end);
            }
            _ => {
                let end = (at + random.below(16)).min(message.len());
                let part = message[at..end].to_vec();
                message.splice(at..at, part);
            }
        }
    }
}

/// What clients ask, with a name in any case: mostly right, sometimes with something more, sometimes damaged.
pub fn query(random: &mut Random, names: &[&str]) -> Vec<u8> {
    let mut draft = Draft { out: Vec::new(), labels: Vec::new() };
    draft.u16(random.u16());
    let flags = match random.below(20) {
        0 => random.u16(),
        1 => random.u16() & 0x7fff,
        2 => 0,
        3 => 0x0110,
        4 => 0x0120,
        _ => 0x0100,
    };
    draft.u16(flags);
    let edns = random.one_in(2);
    for count in [1, 0, 0, u16::from(edns)] {
        draft.u16(count);
    }
    let prefix = ["", "", "", "x.", "_http._tcp.", "a.b.c."];
    let name = format!("{}{}", random.pick(&prefix), random.pick(names));
    let case = random.one_in(3);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        draft.out.push(label.len() as u8);
        for octet in label.bytes() {
            let up = case && random.one_in(2);
            draft.out.push(if up { octet.to_ascii_uppercase() } else { octet });
        }
    }
    draft.out.push(0);
    let common = [1, 1, 1, 28, 28, 33, 12, 16, 6, 2, 15, 255, 5, 252, 65];
    let rtype = if random.one_in(20) { random.u16() } else { *random.pick(&common) };
    draft.u16(rtype);
    draft.u16(if random.one_in(20) { *random.pick(&[0, 3, 254, 255]) } else { 1 });
    if edns {
        if random.one_in(3) {
            draft.record(random, 41);
        } else {
            let size = random.pick(&[0u16, 511, 512, 1232, 4096, 65_535]).to_be_bytes();
            draft.out.extend([0, 0, 41, size[0], size[1], 0, 0, *random.pick(&[0, 0x80]), 0, 0, 0]);
        }
    }
    if random.one_in(6) {
        damage(random, &mut draft.out);
    }
    draft.out
}

/// One of these once more, as a resolver does it: with another id, and its letters in another case; now and then damaged.
pub fn again(random: &mut Random, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = random.pick(messages).clone();
    if out.len() > 12 {
        out[0] = random.octet();
        out[1] = random.octet();
        let mut at = 12;
        while let Some(len) = out.get(at).map(|len| usize::from(*len)).filter(|len| (1..64).contains(len)) {
            for octet in out.iter_mut().skip(at + 1).take(len) {
                if octet.is_ascii_alphabetic() && random.one_in(4) {
                    *octet ^= 0x20;
                }
            }
            at += 1 + len;
        }
    }
    if random.one_in(8) {
        damage(random, &mut out);
    }
    out
}
