//! `https` and `grpc_server`: how much listeners over HTTP bear (`plugin/https`, `plugin/grpc_server`). It stands in
//! the block's [`crate::chain::Settings`], for who opens the sockets.

use crate::chain::args::{err, no_more, number, one, unknown};
use crate::chain::{HttpServer, Setup};
use crate::corefile::{CorefileError, Directive};

/// `https { max_connections NUMBER }`
///
/// # Errors
/// What is wrong with the lines.
pub fn https(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    setup.settings.https = Some(read(d, false)?);
    Ok(())
}

/// `grpc_server { max_streams NUMBER; max_connections NUMBER }`
///
/// # Errors
/// What is wrong with the lines.
pub fn grpc_server(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    setup.settings.grpc = Some(read(d, true)?);
    Ok(())
}

fn read(d: &Directive, streams: bool) -> Result<HttpServer, CorefileError> {
    no_more(&d.name.text, &d.args)?;
    let mut server = HttpServer::default();
    for option in d.block.iter().flatten() {
        let bound = match option.name.text.as_str() {
            "max_connections" => &mut server.connections,
            "max_streams" if streams => &mut server.streams,
            _ => return unknown(&d.name.text, option),
        };
        let said = number(one(option, "number")?, "number")?;
        if bound.replace(said).is_some() {
            return err(&option.name, format!("'{}' stands twice", option.name.text));
        }
    }
    Ok(server)
}
