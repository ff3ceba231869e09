//! Catalog zones (RFC 9432): zones whose records list other zones, for secondaries to take on.

use std::collections::{BTreeMap, HashMap};

use super::tree::Zone;
use crate::message::Data;
use crate::name::Name;

/// The version of RFC 9432 section 4.2.1.
const VERSION: &[u8] = b"2";

/// A zone of a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The label that it has below `zones`: another one means another zone of the same name.
    pub id: String,
    /// What it is called, in lower case.
    pub zone: Name,
    /// The catalog that it is to go over to (`coo`, section 4.4.1).
    pub moves_to: Option<Name>,
}

/// Why a zone is no catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Section 4.1.
    #[error("catalog zone {0} has no NS record")]
    NoNs(Name),
    /// Section 4.2.1.
    #[error("catalog zone {0} must have exactly one version TXT record")]
    Version(Name),
    /// The same.
    #[error("catalog zone {0} has unsupported version \"{1}\"")]
    Unsupported(Name, String),
    /// Section 4.3.
    #[error("catalog member {0}.zones.{1} must have exactly one PTR record")]
    Pointers(String, Name),
    /// The same.
    #[error("catalog member zone {0} is listed by both {1} and {2}")]
    Twice(Name, String, String),
    /// Section 4.4.1.
    #[error("catalog member {0} has more than one coo PTR record")]
    Moves(String),
    /// A record of another class.
    #[error("catalog zone {0} contains a record that is not of class IN: {1}")]
    Class(Name, String),
}

/// The zones that a catalog lists, by their ids.
///
/// # Errors
/// Where it is none.
pub fn members(catalog: &Zone) -> Result<Vec<Member>, CatalogError> {
    let origin = catalog.origin();
    let (mut versions, mut zones, mut moves) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut has_ns = false;
    for record in catalog.records() {
        if record.class != crate::message::CLASS_IN {
            return Err(CatalogError::Class(origin.clone(), record.to_string()));
        }
        let labels = record.name.within(origin).unwrap_or_default();
        let text = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        match (labels.as_slice(), &record.data) {
            ([], Data::Ns(_)) => has_ns = true,
            ([version], Data::Txt(strings)) if version.eq_ignore_ascii_case(b"version") => {
                versions.push(strings.concat());
            }
            ([id, under], Data::Ptr(zone)) if under.eq_ignore_ascii_case(b"zones") => {
                zones.entry(text(id)).or_insert_with(Vec::new).push(zone.to_lowercase());
            }
            ([coo, id, under], Data::Ptr(to))
                if coo.eq_ignore_ascii_case(b"coo") && under.eq_ignore_ascii_case(b"zones") =>
            {
                moves.entry(text(id)).or_insert_with(Vec::new).push(to.to_lowercase());
            }
            _ => {}
        }
    }
    if !has_ns {
        return Err(CatalogError::NoNs(origin.clone()));
    }
    match versions.as_slice() {
        [one] if one == VERSION => {}
        [other] => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(CatalogError::Unsupported(origin.clone(), other));
        }
        _ => return Err(CatalogError::Version(origin.clone())),
    }
    let (mut seen, mut members) = (HashMap::<Name, String>::new(), Vec::new());
    for (id, names) in zones {
        let [zone] = names.as_slice() else {
            return Err(CatalogError::Pointers(id, origin.clone()));
        };
        if let Some(other) = seen.insert(zone.clone(), id.clone()) {
            return Err(CatalogError::Twice(zone.clone(), other, id));
        }
        let moves_to = match moves.remove(&id).as_deref() {
            None => None,
            Some([to]) => Some(to.clone()),
            Some(_) => return Err(CatalogError::Moves(id)),
        };
        members.push(Member { id, zone: zone.clone(), moves_to });
    }
    Ok(members)
}
