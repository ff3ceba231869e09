//! [`Config`]: what a Corefile says, checked, as chains of plugins.

mod served;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chain::values::server_keys;
pub use crate::chain::values::{Scheme, ServerKey, duration, parse_zones, resolv_conf};
use crate::chain::{Block, Link, Needs, Plugin, Row, Setup, Want};
use crate::corefile::{CorefileError, Position, ServerBlock, Sources, nearest, parse};
use crate::order::ROWS;
pub use crate::order::plugin_names;
use served::Served;

/// A whole configuration: server blocks in the file's order, each with its chain.
#[derive(Debug, Default)]
pub struct Config {
    /// What the blocks say about the server itself; to be kept by who opens sockets.
    pub blocks: Vec<Arc<Block>>,
    /// Each block's plugins, in the order in which a query passes them.
    pub(crate) chains: Vec<Vec<Link>>,
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
    /// let error = |text| Config::parse("Corefile", text, &Default::default(), 53).unwrap_err().to_string();
    /// assert_eq!(
    ///     error(".:53 {\n  cache 30\n  route53\n}"),
    ///     "Corefile:3:3: plugin 'route53' is CoreDNS's, but not Sealane's yet; remove it"
    /// );
    /// assert_eq!(error(".:53 {\n  chace 30\n}"), "Corefile:2:3: unknown plugin 'chace'; is 'cache' meant?");
    /// ```
    pub fn parse(
        file: &str,
        text: &str,
        sources: &Sources,
        default_port: u16,
    ) -> Result<Self, CorefileError> {
        Config::parse_with(ROWS, file, text, sources, default_port)
    }

    /// The same, with another table of plugins: for those of one's own, and for tests of one plugin.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_with(
        rows: &[Row],
        file: &str,
        text: &str,
        sources: &Sources,
        default_port: u16,
    ) -> Result<Self, CorefileError> {
        let mut config = Config::default();
        let mut served = Served::default();
        for block in parse(file, text, sources)? {
            let (block, chain) = compile(rows, &block, sources, default_port, &mut served)?;
            config.blocks.push(block);
            config.chains.push(chain);
        }
        if config.blocks.is_empty() {
            let at = Position { file: file.into(), line: 1, column: 1 };
            return Err(CorefileError::new(&at, "there is no server block"));
        }
        Ok(config)
    }

    /// The ports that are listened on, each once.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.blocks.iter().flat_map(|b| &b.keys).map(|key| key.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn plugins(&self) -> impl Iterator<Item = &dyn Plugin> {
        self.chains.iter().flatten().map(|link| &*link.plugin)
    }

    /// The plugins of one type, in the order of blocks and chains.
    pub fn plugins_of<T: Plugin>(&self) -> impl Iterator<Item = &T> {
        self.plugins().filter_map(|plugin| (plugin as &dyn std::any::Any).downcast_ref())
    }

    /// The files that plugins want to be handed, each once, and how often to look at them. A file that is handed in
    /// may include others: there may be more after [`Config::load`].
    pub fn files(&self) -> Vec<Want> {
        wanted(self.plugins())
    }

    /// Hands the plugins what the files say; `content` is `None` where there is none, or it cannot be read.
    ///
    /// # Errors
    /// What a plugin cannot live without or with, and where its line is.
    pub fn load(&mut self, path: &str, content: Option<&str>) -> Result<(), CorefileError> {
        let mut links = self.chains.iter_mut().flatten();
        links.try_for_each(|link| {
            let taken = link.plugin.file_changed(path, content);
            taken.map_err(|why| CorefileError::new(&link.at, why))
        })
    }

    /// What the catalog has to be fed with.
    pub fn needs(&self) -> Needs {
        self.plugins().map(Plugin::needs).fold(Needs::default(), Needs::and)
    }
}

/// The files that plugins want, each once.
pub(crate) fn wanted<'a>(plugins: impl Iterator<Item = &'a dyn Plugin>) -> Vec<Want> {
    let mut files: BTreeMap<(String, bool), Want> = BTreeMap::new();
    for want in plugins.flat_map(Plugin::files) {
        let known = files.entry((want.path.clone(), want.folder)).or_insert_with(|| want.clone());
        // Who wants to look more often decides; zero is never.
        if known.every.is_zero() || !want.every.is_zero() && want.every < known.every {
            known.every = want.every;
        }
    }
    files.into_values().collect()
}

fn compile(
    rows: &[Row],
    source: &ServerBlock,
    sources: &Sources,
    default_port: u16,
    served: &mut Served,
) -> Result<(Arc<Block>, Vec<Link>), CorefileError> {
    let mut keys = Vec::new();
    for token in &source.keys {
        let error = |message: String| CorefileError::new(&token.at, message);
        for key in server_keys(&token.text, default_port).map_err(error)? {
            if key.scheme == Scheme::Quic {
                let scheme = key.scheme.as_str();
                return Err(error(format!("{scheme}:// is not Sealane's yet; remove it")));
            }
            keys.push(key);
        }
    }
    known_plugins(rows, source)?;
    let (mut setup, mut plugins) = (Setup::new(&keys), Vec::new());
    setup.lines = source.directives.iter().map(|directive| directive.name.text.clone()).collect();
    setup.interfaces.clone_from(&sources.interfaces);
    setup.random = sources.random.clone();
    for row in rows {
        let lines = source.directives.iter().filter(|directive| directive.name.text == row.name);
        for (count, directive) in lines.enumerate() {
            if count > 0 && !row.many {
                let message = format!("plugin '{}' stands twice in this server block", row.name);
                return Err(CorefileError::new(directive.at(), message));
            }
            setup.read(row, directive)?;
            if count == 0 {
                plugins.push(row.name);
            }
        }
    }
    let (block, chain) = setup.done(plugins);
    let at = &source.keys[0].at;
    served.add(&block, at).map_err(|why| CorefileError::new(at, why))?;
    Ok((Arc::new(block), chain))
}

/// Refuses what no row is for, with what may have been meant.
fn known_plugins(rows: &[Row], source: &ServerBlock) -> Result<(), CorefileError> {
    for directive in &source.directives {
        let name = directive.name.text.as_str();
        if !rows.iter().any(|row| row.name == name) {
            let there = rows.iter().filter(|row| row.setup.is_some()).map(|row| row.name);
            let hint = nearest(name, there).map(|near| format!("; is '{near}' meant?")).unwrap_or_default();
            return Err(CorefileError::new(directive.at(), format!("unknown plugin '{name}'{hint}")));
        }
    }
    Ok(())
}
