//! Addresses and ranges.

use std::net::IpAddr;

use serde_json::Value;

use super::each;
use crate::document::text;
use crate::field::{FieldError, FieldErrors, Path};

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address as Kubernetes' older fields take it: octets with leading zeros count too
/// (`netutils.ParseIPSloppy`).
pub fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let octets: Vec<u8> = text
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        })
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(IpAddr::from)
}

/// Refuses what is no address; says whether it is one.
pub fn ip(errors: &mut FieldErrors, path: &Path, value: &Value) -> bool {
    let fine = parse(text(value)).is_some();
    if !fine {
        errors.push(FieldError::invalid(path, value, NOT_AN_IP));
    }
    fine
}

/// Refuses what is no range.
pub fn cidr(errors: &mut FieldErrors, path: &Path, value: &Value) {
    let fine = text(value).trim().split_once('/').is_some_and(|(ip, bits)| {
        parse(ip).is_some_and(|ip| {
            let max = if ip.is_ipv4() { 32 } else { 128 };
            bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
        })
    });
    if !fine {
        errors.push(FieldError::invalid(path, value, NOT_A_CIDR));
    }
}

/// `ValidateNonSpecialIP`: addresses that no endpoint has.
pub fn not_special(errors: &mut FieldErrors, path: &Path, value: &Value) {
    let Some(ip) = parse(text(value)) else {
        errors.push(FieldError::invalid(path, value, "must be a valid IP address"));
        return;
    };
    let ip = ip.to_canonical();
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut said = Vec::new();
    if ip.is_unspecified() {
        said.push(format!("may not be unspecified ({})", text(value)));
    }
    if ip.is_loopback() {
        said.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    if link_local {
        said.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        said.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    each(errors, path, value, &said);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn special_addresses_are_refused() {
        for (address, wrong) in [
            ("10.0.0.1", 0),
            ("010.0.0.1", 0),
            ("2001:db8::1", 0),
            ("0.0.0.0", 1),
            ("::1", 1),
            ("127.1.2.3", 1),
            ("fe80::1", 1),
            ("224.0.0.5", 1),
            ("x", 1),
            ("1.2.3", 1),
        ] {
            let mut errors = Vec::new();
            not_special(&mut errors, &Path::root("ip"), &json!(address));
            assert_eq!(errors.len(), wrong, "{address}");
        }
    }

    #[test]
    fn ranges_need_an_address_and_bits_that_it_has() {
        for (range, wrong) in
            [("10.0.0.0/8", 0), ("10.0.0.0/33", 1), ("::/129", 1), ("::/0", 0), ("10.0.0.0", 1), ("x/8", 1)]
        {
            let mut errors = Vec::new();
            cidr(&mut errors, &Path::root("r"), &json!(range));
            assert_eq!(errors.len(), wrong, "{range}");
        }
    }
}
