//! [`Note`]: what a plugin leaves with a query on the way down, to find it again on the way up.

use std::any::Any;

/// One plugin's own small state beside one query; empty at first.
#[derive(Default)]
pub struct Note(Option<Box<dyn Any + Send>>);

impl Note {
    /// A note that says this.
    pub fn new<T: Any + Send>(value: T) -> Self {
        Note(Some(Box::new(value)))
    }

    /// Says this from now on.
    pub fn set<T: Any + Send>(&mut self, value: T) {
        self.0 = Some(Box::new(value));
    }

    /// What it says; `None` where it is empty, or says something of another type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_ref()?.downcast_ref()
    }

    /// The same, to be changed.
    pub fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.downcast_mut()
    }

    /// What it says; it is empty after that.
    pub fn take<T: Any>(&mut self) -> Option<T> {
        match self.0.take()?.downcast() {
            Ok(value) => Some(*value),
            Err(other) => {
                // It says something else, and goes on doing so.
                self.0 = Some(other);
                None
            }
        }
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Note(..)" } else { "Note" })
    }
}
