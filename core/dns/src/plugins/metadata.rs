//! `metadata`: labels that plugins know about a query are there for other plugins (`plugin/metadata`): in `log`'s
//! `{/label}`, in `rewrite edns0 local`, in expressions and templates.

use crate::chain::Setup;
use crate::chain::args::no_options;
use crate::corefile::{CorefileError, Directive};

/// `metadata [ZONES...]`
///
/// # Errors
/// What is wrong with the line.
pub fn setup(setup: &mut Setup<'_>, line: &Directive) -> Result<(), CorefileError> {
    no_options(line)?;
    setup.settings.metadata = setup.zones_or_own(&line.args)?;
    Ok(())
}
