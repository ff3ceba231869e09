//! `sealane proxy`: the service proxy alone, with kube-proxy's flags and configuration.

mod feed;
mod servers;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::KubeConfigOptions;
use sealane_catalog::{Snapshot, Source};
use sealane_client::{CatalogOptions, watch_catalog, watch_service_cidrs};
use sealane_dataplane::{Observer, Proxy, address_sockets, follow_addresses, set_conntrack, set_oom_score};
use sealane_host::memory;
use sealane_proxy::config::{Config, Flags, Problem, USAGE};
use sealane_proxy::{NodeContext, Table};
use tokio::sync::watch;

use crate::cli::LogFormat;
use crate::config::sentence::plain;
use crate::kubeconfig;
use crate::sinks::{Choice, Sinks, clear_all};

/// Between two looks at the configuration file.
const LOOK: Duration = Duration::from_secs(1);
/// Runs until INT or TERM. The rules stay, as kube-proxy's do: `--cleanup` removes them.
pub(crate) fn run(words: &[String]) -> Result<(), String> {
    let flags = match Flags::parse(words) {
        Ok(flags) => flags,
        Err(why) => {
            eprintln!("sealane: proxy: {why}");
            std::process::exit(2);
        }
    };
    if flags.help {
        println!("{USAGE}");
        return Ok(());
    }
    if flags.version {
        println!("sealane-{}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let text = match &flags.config {
        Some(path) => {
            Some(std::fs::read_to_string(path).map_err(|e| format!("proxy: cannot read {path}: {e}"))?)
        }
        None => None,
    };
    let config = flags.config(text.as_deref()).map_err(|problems| said(&flags, &problems))?;
    let format = if config.json_logs { LogFormat::Json } else { LogFormat::Text };
    // klog's verbosity: everything of note at 0, more from 5 on.
    crate::logging::start(format, if config.verbosity < 5 { 1 } else { 2 });
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &flags.write_config_to {
        return std::fs::write(path, config.to_yaml())
            .map_err(|e| format!("proxy: cannot write {path}: {e}"));
    }
    if flags.cleanup {
        return clear_all().map_err(|e| format!("proxy: the rules could not be removed: {e}"));
    }
    set_conntrack(&config.conntrack).iter().for_each(|why| tracing::warn!("{why}"));
    if flags.init_only {
        return Ok(());
    }
    if let Err(why) = set_oom_score(config.oom_score_adj) {
        tracing::info!("{why}");
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(&flags, Arc::new(config)))
}

/// One line for all problems.
fn said(flags: &Flags, problems: &[Problem]) -> String {
    let Some(first) = problems.first() else { return "proxy: nothing".to_owned() };
    let (line, column, first) = (first.line, first.column, plain(&first.message));
    let more = match problems.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    match &flags.config {
        Some(path) if line > 0 => {
            format!("proxy: {path}:{line}:{column}: {first}{more}; sealane check {path} says all")
        }
        Some(path) => format!("proxy: {path}: {first}{more}; sealane check {path} says all"),
        None => format!("proxy: {first}{more}; see sealane proxy --help"),
    }
}

/// All parts, in the order in which they need each other.
async fn serve(flags: &Flags, config: Arc<Config>) -> Result<(), String> {
    let mut stop = crate::up::Stop::new()?;
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = config.node_name.clone().unwrap_or(host);
    let (updates, inbox) = std::sync::mpsc::channel();
    let (sink, rules) = Sinks::open(config.sink, true).map_err(|e| format!("proxy: {e}"))?;
    let choice = sink.choice();
    let client = client(&config, flags.master.as_deref()).await?;
    let table = Table::new(NodeContext::new(name.as_str()));
    let flows = Observer::open().map_err(|e| format!("proxy: {e}"))?;
    let proxy = sealane_dataplane::spawn_observed(table, sink, inbox, rules, flows)
        .map_err(|e| format!("proxy: {e}"))?;
    tracing::info!(node = name, mode = %config.sink, "the service proxy starts");

    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let announcer = flags.announce.as_deref().map(crate::announce::open).transpose()?;
    let sources = [Source::Services, Source::EndpointSlices, Source::Nodes];
    let options = CatalogOptions {
        loaded: Some(Box::new(memory::give_back_program)),
        proxy_on: Some(name.clone()),
        all_nodes: announcer.is_some(),
        ..CatalogOptions::default()
    };
    let (found, ranges) = watch::channel(None);
    let followed = tokio::spawn(watch_service_cidrs(client.clone(), found));
    let watched = tokio::spawn(async move {
        watch_catalog(client, &sources, options, publish, std::future::pending()).await;
    });
    if let Some(announcer) = announcer {
        tokio::spawn(crate::announce::follow(announcer, snapshots.clone(), Some(name.clone())));
    }
    let (own, addresses) = watch::channel(None::<std::collections::BTreeSet<IpAddr>>);
    address_sockets().and_then(|s| follow_addresses(s, own)).map_err(|e| format!("proxy: {e}"))?;

    let (change, configs) = watch::channel(Arc::clone(&config));
    let state = servers::State::new(configs.clone(), choice.clone(), Arc::clone(proxy.metrics()));
    let state = Arc::new(state);
    let feed = feed::Feed { configs, name: name.into(), state: Arc::clone(&state) };
    let fed = tokio::spawn(feed.run(snapshots, addresses, ranges, updates));
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        why = servers::serve(&config, &state) => Err(why),
        why = follow_file(flags, &change, &choice, &proxy) => Err(why),
    };
    // Its senders gone, the thread finishes what it does.
    watched.abort();
    followed.abort();
    fed.abort();
    let _ = fed.await;
    proxy.join();
    ended
}

/// Follows the configuration file: another mode is put into force, connections or not. Where anything else is another,
/// it comes with that: like kube-proxy, the proxy ends, to be started with it.
async fn follow_file(
    flags: &Flags,
    change: &watch::Sender<Arc<Config>>,
    choice: &Choice,
    proxy: &Proxy,
) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let Some(path) = flags.config.as_deref() else { return std::future::pending().await };
    let look = || {
        let found = std::fs::metadata(Path::new(path)).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    let (mut known, mut last) = (look(), None);
    loop {
        tokio::time::sleep(LOOK).await;
        // Gone for a moment, while it is replaced, is no change; and what is being written is read when it is done.
        let Some(now) = look() else { continue };
        if Some(now) == known || last.replace(now) != Some(now) {
            continue;
        }
        known = Some(now);
        let read = std::fs::read_to_string(path).ok().and_then(|text| flags.config(Some(&text)).ok());
        let before = change.borrow().clone();
        let Some(new) = read.filter(|new| new.differs_in_mode_alone(&before)) else {
            return format!("proxy: {path} was changed; start it again with the new one");
        };
        match choice.want(new.sink) {
            Ok(()) => {
                new.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                change.send_replace(Arc::new(new));
                proxy.rewrite();
            }
            Err(error) => tracing::error!("{path}: {error}; rules stay as they are"),
        }
    }
}

/// The API as flags and configuration say, or as a Pod's ServiceAccount.
async fn client(config: &Config, master: Option<&str>) -> Result<kube::Client, String> {
    let fail = |e: &dyn std::fmt::Display| format!("proxy: no way to the API: {e}");
    let found = match (&config.kubeconfig, master) {
        (Some(path), master) => {
            let mut kubeconfig = kubeconfig::read(path).map_err(|e| fail(&e))?;
            for cluster in kubeconfig.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
                cluster.server = master.map(str::to_owned).or_else(|| cluster.server.take());
            }
            let options = KubeConfigOptions::default();
            kubeconfig::config(path, kubeconfig, &options).await.map_err(|e| fail(&e))?
        }
        (None, Some(master)) => {
            let url = master.parse().map_err(|e| fail(&format!("--master {master}: {e}")))?;
            kubeconfig::with_server(kube::Config::new(url)).map_err(|e| fail(&format!("--master: {e}")))?
        }
        (None, None) => kube::Config::incluster_env()
            .map_err(|e| fail(&format!("{e}; outside of a Pod give --kubeconfig")))?,
    };
    kube::Client::try_from(found).map_err(|e| fail(&e))
}
