//! `sealane proxy`: the service proxy alone, with kube-proxy's flags and configuration.

mod feed;
mod servers;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use sealane_catalog::{Snapshot, Source};
use sealane_client::{CatalogOptions, watch_catalog, watch_service_cidrs};
use sealane_dataplane::{
    NftSink, address_sockets, follow_addresses, netlink_socket, set_conntrack, set_oom_score,
};
use sealane_proxy::config::{Config, Flags, Problem, USAGE};
use sealane_proxy::{NodeContext, Table};
use tokio::sync::watch;

use crate::cli::LogFormat;

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
        return sink()?.clear().map_err(|e| format!("proxy: the rules could not be removed: {e}"));
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
    let more = match problems.len() - 1 {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    match &flags.config {
        Some(path) if first.line > 0 => {
            format!(
                "proxy: {path}:{}:{}: {first}{more}; sealane check {path} says all",
                first.line, first.column
            )
        }
        Some(path) => format!("proxy: {path}: {first}{more}; sealane check {path} says all"),
        None => format!("proxy: {first}{more}; see sealane proxy --help"),
    }
}

fn sink() -> Result<NftSink, String> {
    netlink_socket().and_then(NftSink::open).map_err(|e| format!("proxy: {e}"))
}

/// All parts, in the order in which they need each other.
async fn serve(flags: &Flags, config: Arc<Config>) -> Result<(), String> {
    let mut stop = crate::up::Stop::new()?;
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = config.node_name.clone().unwrap_or(host);
    let client = client(&config, flags.master.as_deref()).await?;
    let (updates, inbox) = std::sync::mpsc::channel();
    let sink = sink()?;
    let rules = netlink_socket().and_then(|s| sink.watch(s)).map_err(|e| format!("proxy: {e}"))?;
    let table = Table::new(NodeContext::new(name.as_str()));
    let proxy =
        sealane_dataplane::spawn_watched(table, sink, inbox, rules).map_err(|e| format!("proxy: {e}"))?;
    tracing::info!(node = name, mode = servers::MODE, "the service proxy starts");

    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let announcer = flags.announce.as_deref().map(crate::announce::open).transpose()?;
    let sources = [Source::Services, Source::EndpointSlices, Source::Nodes];
    let options = CatalogOptions {
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

    let state = servers::State::new(Arc::clone(&config), Arc::clone(proxy.metrics()));
    let state = Arc::new(state);
    let feed = feed::Feed { config: Arc::clone(&config), name: name.into(), state: Arc::clone(&state) };
    let fed = tokio::spawn(feed.run(snapshots, addresses, ranges, updates));
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        why = servers::serve(&config, &state) => Err(why),
        why = changed(flags.config.as_deref()) => Err(why),
    };
    // Its senders gone, the thread finishes what it does.
    watched.abort();
    followed.abort();
    fed.abort();
    let _ = fed.await;
    proxy.join();
    ended
}

/// Comes when the configuration file is another one: like kube-proxy, the proxy ends, to be started with it.
async fn changed(path: Option<&str>) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let Some(path) = path else { return std::future::pending().await };
    let look = || {
        let found = std::fs::metadata(Path::new(path)).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    let first = look();
    loop {
        tokio::time::sleep(LOOK).await;
        // Gone for a moment, while it is replaced, is no change.
        if look().is_some_and(|now| Some(now) != first) {
            return format!("proxy: {path} was changed; start it again with the new one");
        }
    }
}

/// The API as flags and configuration say, or as a Pod's ServiceAccount.
async fn client(config: &Config, master: Option<&str>) -> Result<kube::Client, String> {
    let fail = |e: &dyn std::fmt::Display| format!("proxy: no way to the API: {e}");
    let found = match (&config.kubeconfig, master) {
        (Some(path), master) => {
            let mut kubeconfig = Kubeconfig::read_from(path).map_err(|e| fail(&format!("{path}: {e}")))?;
            for cluster in kubeconfig.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
                cluster.server = master.map(str::to_owned).or_else(|| cluster.server.take());
            }
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| fail(&e))?
        }
        (None, Some(master)) => {
            kube::Config::new(master.parse().map_err(|e| fail(&format!("--master {master}: {e}")))?)
        }
        (None, None) => kube::Config::incluster_env()
            .map_err(|e| fail(&format!("{e}; outside of a Pod give --kubeconfig")))?,
    };
    kube::Client::try_from(found).map_err(|e| fail(&e))
}
