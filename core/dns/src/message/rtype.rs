//! Record types' numbers and names (IANA's registry), `TYPE65280` for those without one (RFC 3597 section 5).

/// Address.
pub const A: u16 = 1;
/// Name server.
pub const NS: u16 = 2;
/// Alias.
pub const CNAME: u16 = 5;
/// Start of authority.
pub const SOA: u16 = 6;
/// Pointer.
pub const PTR: u16 = 12;
/// Host information.
pub const HINFO: u16 = 13;
/// Mail exchange.
pub const MX: u16 = 15;
/// Text.
pub const TXT: u16 = 16;
/// IPv6 address.
pub const AAAA: u16 = 28;
/// Location (RFC 1876).
pub const LOC: u16 = 29;
/// Service.
pub const SRV: u16 = 33;
/// Rules that rewrite (RFC 3403).
pub const NAPTR: u16 = 35;
/// Alias of a subtree (RFC 6672).
pub const DNAME: u16 = 39;
/// EDNS0.
pub const OPT: u16 = 41;
/// The child's key as its parent knows it (RFC 4034).
pub const DS: u16 = 43;
/// TSIG (RFC 8945).
pub const TSIG: u16 = 250;
/// Signature (RFC 4034).
pub const RRSIG: u16 = 46;
/// Denial of existence (RFC 4034).
pub const NSEC: u16 = 47;
/// Key (RFC 4034).
pub const DNSKEY: u16 = 48;
/// Denial by hashed names (RFC 5155).
pub const NSEC3: u16 = 50;
/// How names are hashed (RFC 5155).
pub const NSEC3PARAM: u16 = 51;
/// Service binding (RFC 9460).
pub const SVCB: u16 = 64;
/// Service binding of HTTP (RFC 9460).
pub const HTTPS: u16 = 65;
/// Incremental zone transfer.
pub const IXFR: u16 = 251;
/// Zone transfer.
pub const AXFR: u16 = 252;
/// Everything.
pub const ANY: u16 = 255;
/// Who may issue certificates (RFC 8659).
pub const CAA: u16 = 257;

/// How people write it: `A`, `TYPE65280`.
pub fn name(rtype: u16) -> String {
    NAMES
        .binary_search_by_key(&rtype, |row| row.0)
        .map_or_else(|_| format!("TYPE{rtype}"), |at| NAMES[at].1.to_owned())
}

/// The type of that name, letters' case aside; `None` where there is none.
pub fn from_name(name: &str) -> Option<u16> {
    if let Some(row) = NAMES.iter().find(|row| row.1.eq_ignore_ascii_case(name)) {
        return Some(row.0);
    }
    let (prefix, number) = name.split_at_checked(4)?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    if prefix.eq_ignore_ascii_case("TYPE") && digits { number.parse().ok() } else { None }
}

/// Whether it stands for a question or a message's own record, and none of a zone's (RFC 6895 section 3.1).
pub fn is_meta(rtype: u16) -> bool {
    rtype == OPT || (128..=255).contains(&rtype)
}

/// Sorted by number.
const NAMES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (3, "MD"),
    (4, "MF"),
    (5, "CNAME"),
    (6, "SOA"),
    (7, "MB"),
    (8, "MG"),
    (9, "MR"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (14, "MINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (19, "X25"),
    (20, "ISDN"),
    (21, "RT"),
    (23, "NSAP-PTR"),
    (24, "SIG"),
    (25, "KEY"),
    (26, "PX"),
    (27, "GPOS"),
    (28, "AAAA"),
    (29, "LOC"),
    (30, "NXT"),
    (31, "EID"),
    (32, "NIMLOC"),
    (33, "SRV"),
    (34, "ATMA"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (39, "DNAME"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (56, "NINFO"),
    (57, "RKEY"),
    (58, "TALINK"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (100, "UINFO"),
    (101, "UID"),
    (102, "GID"),
    (103, "UNSPEC"),
    (104, "NID"),
    (105, "L32"),
    (106, "L64"),
    (107, "LP"),
    (108, "EUI48"),
    (109, "EUI64"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (253, "MAILB"),
    (254, "MAILA"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
    (258, "AVC"),
    (260, "AMTRELAY"),
    (261, "RESINFO"),
    (32768, "TA"),
    (32769, "DLV"),
];
