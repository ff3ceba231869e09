//! How a server block's lines become plugins and settings.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::values::ServerKey;
use super::{Plugin, Randomness};
use crate::corefile::{CorefileError, Directive, Position, Token};
use crate::name::Name;

/// Reads one line of a plugin.
pub type Reader = fn(&mut Setup<'_>, &Directive) -> Result<(), CorefileError>;

/// A row of the order table: a plugin that a Corefile may name.
#[derive(Debug)]
pub struct Row {
    /// As the Corefile calls it.
    pub name: &'static str,
    /// Reads a line of it; `None`: CoreDNS has it, Sealane does not yet.
    pub setup: Option<Reader>,
    /// It may stand several times in a server block.
    pub many: bool,
}

/// `health [ADDRESS] { lameduck DURATION }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `:8080`
    pub address: String,
    /// How long to go on serving once told to stop.
    pub lameduck: Duration,
}

/// `reload [INTERVAL] [JITTER]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Between looks at the file.
    pub interval: Duration,
    /// Spread of the first look.
    pub jitter: Duration,
}

/// What clients have to show (`client_auth`, crypto/tls's `ClientAuthType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing (`nocert`).
    #[default]
    None,
    /// A certificate is asked for, and not looked at (`request`).
    Request,
    /// Any certificate (`require`).
    Require,
    /// None, or one that an authority signed (`verify_if_given`).
    VerifyIfGiven,
    /// One that an authority signed (`require_and_verify`).
    RequireAndVerify,
}

/// `tls CERT KEY [CA] { OPTIONS }`: paths of files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsServer {
    /// The certificate chain.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Who may have signed clients' certificates; `None`: the system's authorities.
    pub authorities: Option<String>,
    /// What clients have to show.
    pub client_auth: ClientAuth,
    /// Where connections' secrets are written to (`keylog`).
    pub keylog: Option<String>,
}

/// `https`, `grpc_server`: how much listeners over HTTP bear; `None`: CoreDNS's default, 0: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpServer {
    /// Connections at once.
    pub connections: Option<u32>,
    /// Calls at once on one connection.
    pub streams: Option<u32>,
}

/// `timeouts`: how long a connection may take; `None`: the server's own bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For one message to arrive.
    pub read: Option<Duration>,
    /// For one answer to leave.
    pub write: Option<Duration>,
    /// Between messages.
    pub idle: Option<Duration>,
    /// Messages on one connection; `u32::MAX`: as many as there are.
    pub tcp_queries: Option<u32>,
}

/// `multisocket`: sockets for each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// One for each processor.
    PerProcessor,
    /// So many, 1 to 1024.
    Number(u16),
}

/// What a server block says about the server itself, for who opens its sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to listen on; empty: all.
    pub bind: Vec<IpAddr>,
    /// `health`
    pub health: Option<Health>,
    /// `ready`: address.
    pub ready: Option<String>,
    /// `ready { monitor continuously }`: a plugin that was ready once is asked again.
    pub ready_continuously: bool,
    /// `prometheus`: address.
    pub prometheus: Option<String>,
    /// `reload`
    pub reload: Option<Reload>,
    /// `tls`
    pub tls: Option<TlsServer>,
    /// `https`
    pub https: Option<HttpServer>,
    /// `grpc_server`
    pub grpc: Option<HttpServer>,
    /// `timeouts`
    pub timeouts: Option<Timeouts>,
    /// `multisocket`
    pub sockets: Option<Sockets>,
    /// `fairness`: queries a second that no client is denied.
    pub fairness: Option<u32>,
    /// `debug`: lines marked `[DEBUG]` are written, and what panics ends the server.
    pub debug: bool,
    /// `errors { stacktrace }`: a panic that is caught is logged with where it happened.
    pub stacktrace: bool,
    /// `root`: folder that relative paths of other plugins start from.
    pub root: Option<String>,
    /// `view`: its name.
    pub view: Option<String>,
    /// `metadata`: the zones for whose names labels are known; empty: it is off.
    pub metadata: Vec<Name>,
    /// EDNS options that go back to the client beside those that always do: `rewrite edns0 local`'s.
    pub echoed: Vec<u16>,
    /// Other classes than IN are asked for, too (`chaos`).
    pub other_classes: bool,
}

impl Settings {
    /// A path of a plugin's line, below `root` where it is a relative one.
    pub fn path(&self, path: &str) -> String {
        match &self.root {
            Some(root) if !path.starts_with('/') => format!("{}/{path}", root.trim_end_matches('/')),
            _ => path.to_owned(),
        }
    }
}

/// A server block, as the rest of the server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Zones, and the ports that they are asked on.
    pub keys: Vec<ServerKey>,
    /// What it says about the server itself.
    pub settings: Settings,
    /// Names of all plugins in the block, in the order in which a query passes them.
    pub plugins: Vec<&'static str>,
}

impl Block {
    /// The zones of its keys.
    pub fn zones(&self) -> impl Iterator<Item = &Name> {
        self.keys.iter().map(|key| &key.zone)
    }
}

/// A plugin in its place of the chain.
#[derive(Debug)]
pub struct Link {
    /// As the Corefile calls it.
    pub name: &'static str,
    /// Its line; the first, where several make one plugin.
    pub at: Position,
    /// It.
    pub plugin: Box<dyn Plugin>,
}

/// A server block in the making. Its plugins are read in the order in which a query passes them, whatever the order
/// of the lines: `root` is known to all that come behind it.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The block's keys.
    pub keys: &'a [ServerKey],
    /// What it says about the server itself.
    pub settings: Settings,
    /// The names on all of the block's lines, in the lines' order.
    pub lines: Vec<String>,
    /// The machine's network interfaces and their addresses; see [`crate::corefile::Sources::interfaces`].
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// For signatures; see [`crate::corefile::Sources::random`].
    pub random: Randomness,
    links: Vec<Link>,
    name: &'static str,
    at: Position,
}

impl<'a> Setup<'a> {
    /// A block with these keys, and nothing in it.
    pub fn new(keys: &'a [ServerKey]) -> Self {
        Setup {
            keys,
            settings: Settings::default(),
            lines: Vec::new(),
            interfaces: BTreeMap::new(),
            random: Randomness::default(),
            links: Vec::new(),
            name: "",
            at: Position::default(),
        }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(&mut self, row: &Row, directive: &Directive) -> Result<(), CorefileError> {
        self.name = row.name;
        self.at = directive.at().clone();
        match row.setup {
            Some(setup) => setup(self, directive),
            None => Err(CorefileError::new(
                directive.at(),
                format!("plugin '{}' is CoreDNS's, but not Sealane's yet; remove it", row.name),
            )),
        }
    }

    /// The zones that the words name, the block's own where there are none.
    ///
    /// # Errors
    /// Where a word is no zone.
    pub fn zones_or_own(&self, words: &[Token]) -> Result<Vec<Name>, CorefileError> {
        if words.is_empty() { Ok(self.zones()) } else { super::args::zones(words) }
    }

    /// The zones of the block's keys.
    pub fn zones(&self) -> Vec<Name> {
        self.keys.iter().map(|key| key.zone.clone()).collect()
    }

    /// Puts a plugin into the chain, behind those that are in it.
    pub fn add(&mut self, plugin: impl Plugin) {
        self.links.push(Link { name: self.name, at: self.at.clone(), plugin: Box::new(plugin) });
    }

    /// Puts a plugin before all others, for one that no query is for.
    pub fn add_first(&mut self, plugin: impl Plugin) {
        self.links.insert(0, Link { name: self.name, at: self.at.clone(), plugin: Box::new(plugin) });
    }

    /// The plugin of this type that an earlier line of the block put into the chain.
    pub fn earlier<T: Plugin>(&mut self) -> Option<&mut T> {
        self.links.iter_mut().find_map(|link| (&mut *link.plugin as &mut dyn Any).downcast_mut())
    }

    /// The block, with its chain.
    pub fn done(self, plugins: Vec<&'static str>) -> (Block, Vec<Link>) {
        (Block { keys: self.keys.to_vec(), settings: self.settings, plugins }, self.links)
    }
}
