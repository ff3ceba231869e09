//! What panics costs one query, not the server: `ServeDNS` in core/dnsserver/server.go recovers, too.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// A panic that was caught.
#[derive(Debug, Default)]
pub(crate) struct Caught {
    /// What it said.
    pub(crate) what: String,
    /// Where it happened, with the calls that led there.
    pub(crate) place: String,
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

/// Panics that are caught are not written to standard error as well; all others are, as before.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                let caught = describe(info);
                CAUGHT.with_borrow_mut(|slot| *slot = Some(caught));
            } else {
                before(info);
            }
        }));
    });
}

fn describe(info: &PanicHookInfo<'_>) -> Caught {
    let what = info.payload_as_str().unwrap_or("no reason given").to_owned();
    let at = info.location().map(ToString::to_string).unwrap_or_default();
    Caught { what, place: format!("{at}\n{}", Backtrace::force_capture()) }
}

/// Calls `f`. What it was at when it panicked is as it left it: who calls this has to be fine with that.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Caught> {
    quiet();
    CATCHING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(false);
    result.map_err(|_| CAUGHT.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_and_where() {
        assert_eq!(catch(|| 7).unwrap(), 7);
        let caught = catch(|| -> u8 { panic!("number {}", 8) }).unwrap_err();
        assert_eq!(caught.what, "number 8");
        assert!(caught.place.starts_with("io/dnsserver/src/panics.rs:"), "{}", caught.place);
    }
}
