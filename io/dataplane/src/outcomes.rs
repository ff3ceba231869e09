//! What becomes of a packet that has several ways through rules, one for each choice of chance.

use sealane_proxy::{Backend, Fate};
use std::collections::BTreeSet;

/// Why a packet's way through the rules is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// An expression or verdict that the walk does not know.
    #[error("the rules have {0}, which a trace does not understand")]
    Unknown(String),
    /// What happens depends on chance beyond which endpoint it is.
    #[error("some of {runs} equally likely ways end at no endpoint: {fates}")]
    Torn {
        /// How many ways there are.
        runs: u32,
        /// How they end.
        fates: String,
    },
}

/// Where one way ends.
pub(crate) enum End {
    /// At a backend, seen as the node or as itself.
    At(Backend, bool),
    Otherwise(Fate),
}

/// Where all ways so far end.
#[derive(Default)]
pub(crate) struct Outcomes {
    runs: u32,
    backends: BTreeSet<Backend>,
    masqueraded: BTreeSet<Backend>,
    affinity: Option<u32>,
    others: Vec<Fate>,
}

impl Outcomes {
    /// One way more; `stays`: seconds for which the sender's endpoint is kept in mind on it.
    pub(crate) fn add(&mut self, end: End, stays: Option<u32>) {
        self.runs += 1;
        match end {
            End::At(backend, as_node) => {
                self.backends.insert(backend);
                self.affinity = self.affinity.or(stays);
                if as_node {
                    self.masqueraded.insert(backend);
                }
            }
            End::Otherwise(fate) => self.others.push(fate),
        }
    }

    /// How many ways there were.
    pub(crate) fn runs(&self) -> u32 {
        self.runs
    }

    /// What they come to.
    pub(crate) fn fate(self) -> Result<Fate, TraceError> {
        let Self { runs, backends, masqueraded, affinity, others } = self;
        match others.as_slice() {
            [] => Ok(Fate::Dnat { backends, masqueraded, affinity }),
            [fate] if runs == 1 => Ok(fate.clone()),
            fates => Err(TraceError::Torn { runs, fates: format!("{fates:?}") }),
        }
    }
}
