//! [`Config`]: what a Corefile says, checked and typed.

mod plugins;
mod selector;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::corefile::{CorefileError, Directive, ServerBlock, Sources, parse};
use crate::name::Name;
pub use selector::Selector;
pub use values::{duration, parse_zones, resolv_conf};

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Server blocks, in the file's order.
    pub blocks: Vec<Block>,
}

/// One server block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Zones and the ports that they are asked on.
    pub keys: Vec<(Name, u16)>,
    /// Addresses to listen on; empty: all.
    pub bind: Vec<IpAddr>,
    /// `errors`
    pub errors: bool,
    /// `log`
    pub log: Vec<LogRule>,
    /// `health`
    pub health: Option<Health>,
    /// `ready`: address.
    pub ready: Option<String>,
    /// `prometheus`: address.
    pub prometheus: Option<String>,
    /// `reload`
    pub reload: Option<Reload>,
    /// `loadbalance`
    pub loadbalance: bool,
    /// `loop`
    pub detect_loop: bool,
    /// `cache`
    pub cache: Option<Cache>,
    /// `hosts`
    pub hosts: Option<Hosts>,
    /// `kubernetes`, in order
    pub kubernetes: Vec<Kubernetes>,
    /// `forward`, in order
    pub forward: Vec<Forward>,
    /// Names of all plugins in the block.
    pub plugins: Vec<String>,
}

/// `log [NAMES...] [FORMAT] { class CLASSES... }`
#[derive(Clone, Debug)]
pub struct LogRule {
    /// Names under which queries are logged.
    pub zones: Vec<Name>,
    /// Format with `{…}` placeholders.
    pub format: String,
    /// Which answers.
    pub classes: Vec<LogClass>,
}

/// CoreDNS's classes of answers (`plugin/pkg/response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogClass {
    /// Every one.
    All,
    /// Successful ones.
    Success,
    /// NXDOMAIN and NODATA.
    Denial,
    /// SERVFAIL, REFUSED and the like.
    Error,
}

/// `health [ADDRESS] { lameduck DURATION }`
#[derive(Clone, Debug)]
pub struct Health {
    /// `:8080`
    pub address: String,
    /// How long to go on serving once told to stop.
    pub lameduck: Duration,
}

/// `reload [INTERVAL] [JITTER]`
#[derive(Clone, Copy, Debug)]
pub struct Reload {
    /// Between looks at the file.
    pub interval: Duration,
    /// Spread of the first look.
    pub jitter: Duration,
}

/// One side of `cache`.
#[derive(Clone, Debug)]
pub struct CacheSide {
    /// Entries, at most.
    pub capacity: usize,
    /// Longest time.
    pub max_ttl: Duration,
    /// Shortest time.
    pub min_ttl: Duration,
    /// Zones for which it is off.
    pub disabled: Vec<Name>,
}

/// `cache`
#[derive(Clone, Debug)]
pub struct Cache {
    /// Zones; empty: the server block's.
    pub zones: Vec<Name>,
    /// Answers with records.
    pub success: CacheSide,
    /// NXDOMAIN and NODATA.
    pub denial: CacheSide,
    /// How long failures are kept.
    pub servfail: Duration,
    /// Ask again before an entry ends: after so many hits, …
    pub prefetch: Option<Prefetch>,
    /// Ended entries are served so long.
    pub serve_stale: Option<ServeStale>,
    /// TTLs are not counted down.
    pub keep_ttl: bool,
}

/// `prefetch AMOUNT [DURATION] [PERCENTAGE%]`
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Hits that make it worth while.
    pub amount: u32,
    /// Within this time without a gap.
    pub duration: Duration,
    /// When so much of the TTL is left, in percent.
    pub percentage: u32,
}

/// `serve_stale [DURATION] [REFRESH_MODE]`
#[derive(Clone, Copy, Debug)]
pub struct ServeStale {
    /// How long.
    pub duration: Duration,
    /// Ask first, and serve the stale answer only where that fails.
    pub verify: bool,
}

/// `hosts`
#[derive(Clone, Debug)]
pub struct Hosts {
    /// File.
    pub path: String,
    /// Zones; empty: the server block's.
    pub zones: Vec<Name>,
    /// Inline lines, as of a hosts file.
    pub inline: String,
    /// Seconds.
    pub ttl: u32,
    /// Answers PTR, too.
    pub reverse: bool,
    /// Between looks at the file; zero: never again.
    pub reload: Duration,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
}

/// `pods`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodMode {
    /// No records.
    Disabled,
    /// What the name says.
    Insecure,
    /// Only of Pods that exist.
    Verified,
}

/// `kubernetes`
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Zones, reverse ones included.
    pub zones: Vec<Name>,
    /// `pods`
    pub pods: PodMode,
    /// Endpoints without host name are called after their Pods.
    pub endpoint_pod_names: bool,
    /// Seconds, 0-3600.
    pub ttl: u32,
    /// Namespaces that are served; empty: all.
    pub namespaces: Vec<String>,
    /// Services that are served.
    pub labels: Option<Selector>,
    /// Namespaces that are served, by their labels.
    pub namespace_labels: Option<Selector>,
    /// No endpoints: headless Services and endpoint names do not exist.
    pub no_endpoints: bool,
    /// NXDOMAIN for Services without endpoints.
    pub ignore_empty: bool,
    /// PTR only for endpoints that have a host name.
    pub ptr_hostname_only: bool,
    /// `fallthrough`
    pub fallthrough: Option<Vec<Name>>,
}

/// Where to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A server.
    Address(SocketAddr),
    /// The name servers of a resolv.conf.
    ResolvConf(String),
}

/// `policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any, the default.
    Random,
    /// One after the other.
    RoundRobin,
    /// The first that works.
    Sequential,
}

/// `forward`
#[derive(Clone, Debug)]
pub struct Forward {
    /// Names under which it is asked.
    pub from: Name,
    /// Upstreams.
    pub to: Vec<Upstream>,
    /// Names which it leaves alone.
    pub except: Vec<Name>,
    /// Always TCP.
    pub force_tcp: bool,
    /// UDP first, even for a client on TCP.
    pub prefer_udp: bool,
    /// How long connections are kept.
    pub expire: Duration,
    /// Failures after which an upstream counts as down; 0: never.
    pub max_fails: u32,
    /// Order.
    pub policy: Policy,
    /// Between health checks of a failing upstream.
    pub health_interval: Duration,
    /// Health checks ask for recursion.
    pub health_recursion: bool,
    /// What they ask for.
    pub health_domain: Name,
    /// Queries under way at most; 0: any.
    pub max_concurrent: u32,
}

/// The plugins that there are, in the order in which a query passes them (`-plugins`).
pub fn plugin_names() -> impl Iterator<Item = &'static str> {
    plugins::SETUPS.iter().map(|row| row.0)
}

impl Config {
    /// Reads a Corefile. `default_port` is for keys without one.
    ///
    /// # Errors
    /// The first thing that is wrong, with line and column. A plugin or option that Sealane does not have is an
    /// error, too: it would be obeyed silently otherwise.
    ///
    /// ```
    /// use sealane_dns::config::Config;
    /// let config = Config::parse("Corefile", ".:53 {\n  cache 30\n  whoami\n}", &Default::default(), 53);
    /// assert_eq!(config.unwrap_err().to_string(), "Corefile:3:3: plugin 'whoami' is CoreDNS's, but not Sealane's yet; remove it");
    /// ```
    pub fn parse(
        file: &str,
        text: &str,
        sources: &Sources,
        default_port: u16,
    ) -> Result<Self, CorefileError> {
        let mut config = Config::default();
        let mut seen: Vec<((Name, u16), Vec<IpAddr>)> = Vec::new();
        for block in parse(file, text, sources)? {
            let block = Block::compile(&block, default_port, &mut seen)?;
            config.blocks.push(block);
        }
        if config.blocks.is_empty() {
            let at = crate::corefile::Position { file: file.into(), line: 1, column: 1 };
            return Err(CorefileError::new(&at, "there is no server block"));
        }
        Ok(config)
    }

    /// The ports that are listened on, each once.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.blocks.iter().flat_map(|b| &b.keys).map(|(_, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Files that the server wants to be handed: resolv.confs and hosts.
    pub fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = Vec::new();
        for block in &self.blocks {
            let upstreams = block.forward.iter().flat_map(|f| &f.to);
            files.extend(upstreams.filter_map(|to| match to {
                Upstream::ResolvConf(path) => Some(path.clone()),
                Upstream::Address(_) => None,
            }));
            files.extend(block.hosts.iter().map(|h| h.path.clone()));
        }
        files.sort();
        files.dedup();
        files
    }
}

impl Block {
    fn compile(
        source: &ServerBlock,
        default_port: u16,
        seen: &mut Vec<((Name, u16), Vec<IpAddr>)>,
    ) -> Result<Self, CorefileError> {
        let mut block = Block::default();
        for key in &source.keys {
            let keys = values::server_key(&key.text, default_port)
                .map_err(|message| CorefileError::new(&key.at, message))?;
            block.keys.extend(keys);
        }
        for directive in &source.directives {
            block.add(directive)?;
        }
        for key in &block.keys {
            if seen.iter().any(|(other, bind)| other == key && *bind == block.bind) {
                let message = format!("zone {} on port {} has two server blocks", key.0, key.1);
                return Err(CorefileError::new(&source.keys[0].at, message));
            }
            seen.push((key.clone(), block.bind.clone()));
        }
        Ok(block)
    }

    fn add(&mut self, directive: &Directive) -> Result<(), CorefileError> {
        let name = directive.name.text.as_str();
        let Some((_, setup, many)) = plugins::SETUPS.iter().find(|row| row.0 == name) else {
            let message = if plugins::COREDNS.contains(&name) {
                format!("plugin '{name}' is CoreDNS's, but not Sealane's yet; remove it")
            } else {
                format!("unknown plugin '{name}'")
            };
            return Err(CorefileError::new(directive.at(), message));
        };
        if !many && self.plugins.iter().any(|known| known == name) {
            let message = format!("plugin '{name}' stands twice in this server block");
            return Err(CorefileError::new(directive.at(), message));
        }
        setup(self, directive)?;
        if !self.plugins.iter().any(|known| known == name) {
            self.plugins.push(name.to_owned());
        }
        Ok(())
    }
}
