//! Network namespaces.

use crate::BpfError;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::path::Path;

/// The calling thread's.
pub(crate) const PATH: &str = "/proc/thread-self/ns/net";

/// Opens the calling thread's.
pub(crate) fn current() -> Result<File, BpfError> {
    let path = Path::new(PATH);
    File::open(path).map_err(|why| BpfError::File { path: path.into(), why })
}

/// Does something in each of some namespaces, in order, on a thread of its own: who enters a namespace does not come
/// back.
pub(crate) fn within<'a, T: Send>(
    namespaces: impl IntoIterator<Item = &'a File> + Send,
    mut work: impl FnMut() -> Result<T, BpfError> + Send,
) -> Result<Vec<T>, BpfError> {
    let each = || {
        let enter = |namespace: &File| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(BpfError::Namespace)
        };
        namespaces.into_iter().map(|namespace| enter(namespace).and_then(|()| work())).collect()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("proxy-namespace".to_owned());
        let thread = thread.spawn_scoped(scope, each).map_err(|_| BpfError::Namespace(Errno::AGAIN))?;
        thread.join().map_err(|_| BpfError::Namespace(Errno::CANCELED))?
    })
}
