//! `tls`: the certificate of listeners for DNS over TLS and HTTPS (`plugin/tls`). It stands in the block's
//! [`crate::chain::Settings`], for who opens the sockets.

use crate::chain::args::{err, one, unknown};
use crate::chain::{ClientAuth, Setup, TlsServer};
use crate::corefile::{CorefileError, Directive, Token};

/// The words of `client_auth`.
const CLIENT_AUTH: [(&str, ClientAuth); 5] = [
    ("nocert", ClientAuth::None),
    ("request", ClientAuth::Request),
    ("require", ClientAuth::Require),
    ("verify_if_given", ClientAuth::VerifyIfGiven),
    ("require_and_verify", ClientAuth::RequireAndVerify),
];
/// Options that obtain the certificate from an ACME server.
const ACME: [&str; 6] = ["acme", "email", "ca", "storage", "ca_root", "resolver"];

/// `tls CERT KEY [CA] { client_auth KIND; keylog FILE }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let options = || d.block.iter().flatten();
    if let Some(option) = options().find(|option| ACME.contains(&option.name.text.as_str())) {
        let name = &option.name.text;
        let message =
            format!("'{name}' of 'tls' (ACME) is not Sealane's yet; name a certificate and its key");
        return err(&option.name, message);
    }
    let path = |token: &Token| setup.settings.path(&token.text);
    let mut tls = match d.args.as_slice() {
        [certificate, key, authorities @ ..] if authorities.len() < 2 => TlsServer {
            certificate: path(certificate),
            key: path(key),
            authorities: authorities.first().map(path),
            ..TlsServer::default()
        },
        [_, _, _, extra, ..] => return err(extra, format!("'tls' takes no '{}'", extra.text)),
        _ => return err(&d.name, "'tls' needs a certificate and its key"),
    };
    for option in options() {
        match option.name.text.as_str() {
            "client_auth" => {
                let token = one(option, "kind of client authentication")?;
                let Some((_, kind)) = CLIENT_AUTH.iter().find(|(name, _)| *name == token.text) else {
                    let kinds = CLIENT_AUTH.map(|(name, _)| name).join(", ");
                    return err(token, format!("'{}' is no client_auth ({kinds})", token.text));
                };
                tls.client_auth = *kind;
            }
            "keylog" => tls.keylog = Some(path(one(option, "file")?)),
            _ => return unknown("tls", option),
        }
    }
    setup.settings.tls = Some(tls);
    Ok(())
}
