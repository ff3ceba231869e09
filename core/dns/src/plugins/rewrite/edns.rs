//! `rewrite edns0`: options of the question that goes on.

use std::net::IpAddr;

use super::answers::OnAnswer;
use crate::chain::args::err;
use crate::chain::{Context, Query};
use crate::corefile::{CorefileError, Token};
use crate::message::{Edns, EdnsOption};

/// NSID (RFC 5001).
const NSID: u16 = 3;
/// The client's subnet (RFC 7871).
const SUBNET: u16 = 8;
/// What a question that had no OPT says that it can take.
const UDP_SIZE: u16 = 4096;

/// `edns0 local|nsid|subnet ACTION …`
#[derive(Clone, Debug)]
pub(super) struct EdnsRule {
    action: Action,
    pub(super) code: u16,
    value: Value,
    revert: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Set,
    Append,
    Replace,
    Unset,
}

#[derive(Clone, Debug)]
enum Value {
    Octets(Box<[u8]>),
    Variable(Variable),
    /// Bits of an IPv4 and of an IPv6 address.
    Subnet(u8, u8),
}

#[derive(Clone, Debug)]
enum Variable {
    Qname,
    Qtype,
    ClientIp,
    ClientPort,
    Protocol,
    ServerIp,
    ServerPort,
    /// A label of `metadata`.
    Label(String),
}

impl EdnsRule {
    /// Of the words behind `edns0`.
    pub(super) fn read(field: &Token, words: &[&Token]) -> Result<Self, CorefileError> {
        let [kind, action, rest @ ..] = words else {
            return err(
                field,
                "'edns0' needs 'local', 'nsid' or 'subnet', and set, append, replace or unset",
            );
        };
        let action = match action.text.to_ascii_lowercase().as_str() {
            "set" => Action::Set,
            "append" => Action::Append,
            "replace" => Action::Replace,
            "unset" => Action::Unset,
            other => return err(action, format!("'{other}' is no action (set, append, replace, unset)")),
        };
        let (rest, revert) = match rest {
            [rest @ .., last] if last.text == "revert" && action != Action::Unset => (rest, true),
            _ => (rest, false),
        };
        let (code, value) = match (kind.text.to_ascii_lowercase().as_str(), action, rest) {
            ("local", Action::Unset, [code]) => (number(code)?, Value::Octets([].into())),
            ("local", Action::Unset, _) => return err(kind, "'local unset' takes the option's code alone"),
            ("local", _, [code, data]) => (number(code)?, value(data)?),
            ("local", ..) => return err(kind, "'local' takes an action, the option's code and its data"),
            ("nsid", _, []) => (NSID, Value::Octets([].into())),
            ("nsid", ..) => return err(kind, "'nsid' takes an action alone"),
            ("subnet", Action::Unset, []) => (SUBNET, Value::Subnet(0, 0)),
            ("subnet", Action::Unset, _) => return err(kind, "'subnet unset' takes nothing else"),
            ("subnet", _, [v4, v6]) => (SUBNET, Value::Subnet(bits(v4, 32)?, bits(v6, 128)?)),
            ("subnet", ..) => {
                return err(kind, "'subnet' takes an action, an IPv4 and an IPv6 prefix length");
            }
            (other, ..) => {
                return err(kind, format!("'{other}' is no option of edns0 (local, nsid, subnet)"));
            }
        };
        Ok(EdnsRule { action, code, value, revert })
    }

    /// Whether the option goes back to the client, too: `local` ones with a value do.
    pub(super) fn is_echoed(&self) -> bool {
        !matches!(self.value, Value::Subnet(..)) && self.code != NSID
    }

    /// Changes the question's options; what has to be done to the answer, `None` where nothing was changed.
    pub(super) fn apply(&self, query: &mut Query, cx: &Context<'_>) -> Option<Vec<OnAnswer>> {
        let data = match &self.value {
            _ if self.action == Action::Unset => [].into(),
            Value::Octets(octets) => octets.clone(),
            Value::Subnet(v4, v6) => subnet(query.client.ip(), *v4, *v6),
            Value::Variable(variable) => variable.octets(query, cx)?,
        };
        let edns = query.request.edns.get_or_insert_with(|| Edns { udp_size: UDP_SIZE, ..Edns::default() });
        if self.action == Action::Unset {
            edns.options.retain(|(code, _)| *code != self.code);
            return Some(Vec::new());
        }
        let there = edns.options.iter_mut().find(|(code, _)| *code == self.code);
        let before: Option<EdnsOption> = match (there, self.action) {
            (Some(option), Action::Set | Action::Replace) => {
                Some(std::mem::replace(option, (self.code, data)))
            }
            (None, Action::Set | Action::Append) => {
                edns.options.push((self.code, data));
                None
            }
            _ => return None,
        };
        Some(if self.revert { vec![OnAnswer::Edns(self.code, before)] } else { Vec::new() })
    }
}

/// A number as Go's source has it: `65001`, `0xfde9`, `0o7`, `0b1`.
fn number(token: &Token) -> Result<u16, CorefileError> {
    let text = token.text.to_ascii_lowercase();
    let radixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefixed = radixes.iter().find_map(|(prefix, radix)| Some((text.strip_prefix(prefix)?, *radix)));
    let (digits, radix) = match prefixed {
        Some(found) => found,
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text.as_str(), 10),
    };
    u16::from_str_radix(digits, radix)
        .or_else(|_| err(token, format!("'{}' is no number up to 65535 (0xffee, 65001)", token.text)))
}

fn bits(token: &Token, most: u8) -> Result<u8, CorefileError> {
    match number(token).map(u8::try_from)? {
        Ok(bits) if bits <= most => Ok(bits),
        _ => err(token, format!("'{}' is no prefix length up to {most}", token.text)),
    }
}

fn value(token: &Token) -> Result<Value, CorefileError> {
    let text = token.text.as_str();
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return Ok(Value::Variable(match name {
            "qname" => Variable::Qname,
            "qtype" => Variable::Qtype,
            "client_ip" => Variable::ClientIp,
            "client_port" => Variable::ClientPort,
            "protocol" => Variable::Protocol,
            "server_ip" => Variable::ServerIp,
            "server_port" => Variable::ServerPort,
            label if label.find('/').is_some_and(|at| at > 0 && at + 1 < label.len()) => {
                Variable::Label(label.to_owned())
            }
            other => {
                return err(token, format!("'{{{other}}}' is neither a variable nor a label of metadata"));
            }
        }));
    }
    let Some(hex) = text.strip_prefix("0x") else { return Ok(Value::Octets(text.as_bytes().into())) };
    let octet = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    };
    let octets: Option<Box<[u8]>> = hex.as_bytes().chunks(2).map(octet).collect();
    octets.map_or_else(
        || err(token, format!("'{text}' is not in hex, two digits an octet")),
        |o| Ok(Value::Octets(o)),
    )
}

impl Variable {
    /// Its value; `None` where there is none.
    fn octets(&self, query: &Query, cx: &Context<'_>) -> Option<Box<[u8]>> {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => Box::from(ip.octets()),
            IpAddr::V6(ip) => Box::from(ip.octets()),
        };
        let question = query.question();
        Some(match self {
            Variable::Qname => question.name.to_string().into_bytes().into(),
            Variable::Qtype => question.rtype.to_be_bytes().into(),
            Variable::ClientIp => address(query.client.ip()),
            Variable::ClientPort => query.client.port().to_be_bytes().into(),
            Variable::Protocol => query.transport.as_str().as_bytes().into(),
            Variable::ServerIp => address(query.server_ip(cx.world)?),
            Variable::ServerPort => query.server.port.to_be_bytes().into(),
            Variable::Label(label) => {
                let value = cx.peers.metadata(label, query, cx.world).filter(|value| !value.is_empty())?;
                value.into_bytes().into()
            }
        })
    }
}

/// RFC 7871 section 6: family, prefix lengths, and as many octets of the address as the prefix has, the rest of its
/// bits zero.
fn subnet(client: IpAddr, v4: u8, v6: u8) -> Box<[u8]> {
    let (family, bits, mut octets) = match client {
        IpAddr::V4(ip) => (1, v4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, v6, ip.octets().to_vec()),
    };
    octets.truncate(usize::from(bits).div_ceil(8));
    if let Some(last) = octets.last_mut().filter(|_| bits % 8 != 0) {
        *last &= 0xffu8 << (8 - bits % 8);
    }
    [&[0, family, bits, 0][..], &octets].concat().into()
}
