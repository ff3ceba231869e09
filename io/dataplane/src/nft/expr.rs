//! nftables expressions as the kernel takes them (linux/netfilter/nf_tables.h).

use crate::message::Attributes;

/// A 32-bit register; 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    /// NFT_REG32_00 is 8.
    fn number(self) -> u32 {
        self.0 + 8
    }
}

/// NFT_REG_VERDICT.
const VERDICT_REGISTER: u32 = 0;

/// Which header a payload is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Drop,
    Jump(&'a str),
    Goto(&'a str),
    Return,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr<'a> {
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    MetaProtocol {
        to: Register,
    },
    MetaMark {
        to: Register,
    },
    SetMetaMark {
        from: Register,
    },
    /// Name of the link that the packet came in by, over four registers.
    InputInterface {
        to: Register,
    },
    CtStatus {
        to: Register,
    },
    /// `fib saddr type`.
    SourceType {
        to: Register,
    },
    /// `fib daddr type`.
    DestinationType {
        to: Register,
    },
    Random {
        modulus: u32,
        offset: u32,
        to: Register,
    },
    Bitwise {
        register: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Equal {
        register: Register,
        value: Vec<u8>,
    },
    Differs {
        register: Register,
        value: Vec<u8>,
    },
    /// In a set, or a map whose value goes to a register.
    Lookup {
        set: &'a str,
        key: Register,
        to: Option<Register>,
    },
    /// In no element of a set.
    Outside {
        set: &'a str,
        key: Register,
    },
    /// In a verdict map.
    Dispatch {
        map: &'a str,
        key: Register,
    },
    Verdict(Verdict<'a>),
    /// Reject with ICMP port unreachable of the family.
    Refuse {
        code: u8,
    },
    Dnat {
        family: u8,
        address: Register,
        port: Register,
    },
    /// `masquerade fully-random`.
    Masquerade,
    Learn {
        map: &'a str,
        key: Register,
        value: Register,
        seconds: u32,
    },
    Forget {
        map: &'a str,
        key: Register,
        value: Register,
    },
}

impl Expr<'_> {
    fn name(&self) -> &'static str {
        match self {
            Expr::Payload { .. } => "payload",
            Expr::MetaProtocol { .. }
            | Expr::MetaMark { .. }
            | Expr::SetMetaMark { .. }
            | Expr::InputInterface { .. } => "meta",
            Expr::CtStatus { .. } => "ct",
            Expr::SourceType { .. } | Expr::DestinationType { .. } => "fib",
            Expr::Random { .. } => "numgen",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Equal { .. } | Expr::Differs { .. } => "cmp",
            Expr::Lookup { .. } | Expr::Outside { .. } | Expr::Dispatch { .. } => "lookup",
            Expr::Verdict(_) => "immediate",
            Expr::Refuse { .. } => "reject",
            Expr::Dnat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::Learn { .. } | Expr::Forget { .. } => "dynset",
        }
    }

    /// Writes it as an element of a rule's list.
    pub(crate) fn write(&self, list: &mut Attributes<'_>) {
        list.nest(1, |e| {
            e.text(1, self.name());
            e.nest(2, |data| self.fill(data));
        });
    }

    fn fill(&self, a: &mut Attributes<'_>) {
        match self {
            Expr::Payload { base, offset, length, to } => {
                numbers(a, &[(1, to.number()), (2, *base as u32), (3, *offset), (4, *length)]);
            }
            // NFT_META_L4PROTO, NFT_META_MARK
            Expr::MetaProtocol { to } => numbers(a, &[(1, to.number()), (2, 16)]),
            Expr::MetaMark { to } => numbers(a, &[(1, to.number()), (2, 3)]),
            Expr::SetMetaMark { from } => numbers(a, &[(2, 3), (3, from.number())]),
            // NFT_META_IIFNAME
            Expr::InputInterface { to } => numbers(a, &[(1, to.number()), (2, 6)]),
            // NFT_CT_STATUS
            Expr::CtStatus { to } => numbers(a, &[(1, to.number()), (2, 2)]),
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_SADDR
            Expr::SourceType { to } => numbers(a, &[(1, to.number()), (2, 3), (3, 1)]),
            // NFTA_FIB_F_DADDR
            Expr::DestinationType { to } => numbers(a, &[(1, to.number()), (2, 3), (3, 2)]),
            Expr::Random { modulus, offset, to } => {
                numbers(a, &[(1, to.number()), (2, *modulus), (3, 1), (4, *offset)]);
            }
            Expr::Bitwise { register, mask, xor } => {
                numbers(a, &[(1, register.number()), (2, register.number()), (3, mask.len() as u32)]);
                a.nest(4, |v| v.bytes(1, mask));
                a.nest(5, |v| v.bytes(1, xor));
            }
            Expr::Equal { register, value } => compare(a, *register, 0, value),
            Expr::Differs { register, value } => compare(a, *register, 1, value),
            Expr::Lookup { set, key, to } => {
                a.text(1, set);
                a.u32(2, key.number());
                if let Some(to) = to {
                    a.u32(3, to.number());
                }
            }
            Expr::Outside { set, key } => {
                a.text(1, set);
                // NFT_LOOKUP_F_INV
                numbers(a, &[(2, key.number()), (5, 1)]);
            }
            Expr::Dispatch { map, key } => {
                a.text(1, map);
                numbers(a, &[(2, key.number()), (3, VERDICT_REGISTER)]);
            }
            Expr::Verdict(verdict) => {
                a.u32(1, VERDICT_REGISTER);
                a.nest(2, |value| verdict.write(value));
            }
            Expr::Refuse { code } => {
                a.u32(1, 0);
                a.bytes(2, &[*code]);
            }
            Expr::Dnat { family, address, port } => {
                // NFT_NAT_DNAT
                numbers(a, &[(1, 1), (2, u32::from(*family)), (3, address.number()), (5, port.number())]);
            }
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY
            Expr::Masquerade => a.u32(1, 1 << 4),
            Expr::Learn { map, key, value, seconds } => {
                dynamic(a, map, 1, *key, *value);
                a.u64(6, u64::from(*seconds) * 1000);
            }
            Expr::Forget { map, key, value } => dynamic(a, map, 2, *key, *value),
        }
    }
}

fn numbers(a: &mut Attributes<'_>, pairs: &[(u16, u32)]) {
    pairs.iter().for_each(|(kind, value)| a.u32(*kind, *value));
}

fn compare(a: &mut Attributes<'_>, register: Register, operator: u32, value: &[u8]) {
    numbers(a, &[(1, register.number()), (2, operator)]);
    a.nest(3, |v| v.bytes(1, value));
}

/// The kernel wants a value with a map's key, even to delete it.
fn dynamic(a: &mut Attributes<'_>, map: &str, operation: u32, key: Register, value: Register) {
    a.text(1, map);
    numbers(a, &[(3, operation), (4, key.number()), (5, value.number())]);
}

impl Verdict<'_> {
    /// Writes it as the data of an immediate or of a map's element.
    pub(crate) fn write(&self, data: &mut Attributes<'_>) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        data.nest(2, |v| {
            v.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                v.text(2, chain);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Messages, received};

    /// The bytes as `nft --debug=netlink` and strace show them for `ct status`, `cmp`, `goto`.
    #[test]
    fn expressions_have_the_kernels_attributes() {
        let bytes = |expr: &Expr<'_>| {
            let mut messages = Messages::default();
            messages.push(0, 0, 2, |a| expr.write(a));
            received(messages.bytes()).next().unwrap().body[4..].to_vec()
        };
        let ct = bytes(&Expr::CtStatus { to: Register(0) });
        let expected: &[u8] = &[
            32, 0, 1, 0x80, // list element
            7, 0, 1, 0, b'c', b't', 0, 0, // name, padded
            20, 0, 2, 0x80, // data
            8, 0, 1, 0, 0, 0, 0, 8, // dreg: NFT_REG32_00
            8, 0, 2, 0, 0, 0, 0, 2, // key: status
        ];
        assert_eq!(ct, expected);
        let goto = bytes(&Expr::Verdict(Verdict::Goto("x")));
        assert_eq!(goto[goto.len() - 16..], [8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfc, 6, 0, 2, 0, b'x', 0, 0, 0]);
    }
}
