//! `sealane dns`: the DNS server alone, with CoreDNS's flags.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use sealane_catalog::{Snapshot, Source};
use sealane_client::{CatalogOptions, WarmStart, watch_catalog, watch_imports};
use sealane_dnsserver::{ApiAccess, Feed, Feeder, Feeds, LogSink, Needs, Settings};
use sealane_host::memory;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::kubeconfig;

/// CoreDNS's flags (`coremain/run.go`), one dash or two.
#[derive(Default)]
struct Flags {
    conf: Option<PathBuf>,
    port: Option<u16>,
    pidfile: Option<PathBuf>,
    quiet: bool,
    ask: Option<Ask>,
}

enum Ask {
    Plugins,
    Version,
    Help,
}

const HELP: &str = "\
Usage: sealane dns [-conf FILE] [-dns.port PORT] [-pidfile FILE] [-quiet] [-plugins] [-version]

The DNS server alone, configured by a Corefile as CoreDNS is.

  -conf FILE       the Corefile, or `stdin` [default: Corefile; where there is none: whoami and log on all zones]
  -dns.port PORT   port of server blocks that name none (also -p) [default: 53]
  -pidfile FILE    where to write the process's id
  -quiet           nothing is said of zones and version at the start
  -plugins         list the plugins
  -version         print the version

Example:
  sealane dns -conf /etc/coredns/Corefile";

fn parse(words: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let bare = bare
            .ok_or_else(|| format!("dns: unexpected argument {word:?}; the Corefile is given with -conf"))?;
        let (name, given) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        let on = match given.as_deref() {
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some(_) => false,
        };
        let mut value = || {
            given
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("dns: -{name} needs a value"))
        };
        match name {
            "conf" => flags.conf = Some(value()?.into()).filter(|path: &PathBuf| *path != PathBuf::new()),
            "dns.port" | "p" => {
                let text = value()?;
                let port = text.parse();
                flags.port =
                    Some(port.map_err(|_| format!("dns: -{name} {text}: not a port, which is 0 to 65535"))?);
            }
            "pidfile" => flags.pidfile = Some(value()?.into()),
            "plugins" => flags.ask = on.then_some(Ask::Plugins).or(flags.ask),
            "version" => flags.ask = on.then_some(Ask::Version).or(flags.ask),
            "quiet" => flags.quiet = on,
            "h" | "help" => flags.ask = Some(Ask::Help),
            _ => {
                return Err(format!(
                    "dns: unknown flag -{name}; known are -conf, -dns.port, -p, -pidfile, -plugins, -quiet, \
                     -version"
                ));
            }
        }
    }
    Ok(flags)
}

/// Serves until INT or TERM.
pub(crate) fn run(words: &[String]) -> Result<(), String> {
    let flags = parse(words)?;
    match flags.ask {
        Some(Ask::Plugins) => {
            let names: BTreeSet<&str> = sealane_dns::config::plugin_names().collect();
            names.iter().for_each(|name| println!("{name}"));
            return Ok(());
        }
        Some(Ask::Version) => {
            println!("Sealane-{}", env!("CARGO_PKG_VERSION"));
            println!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
            return Ok(());
        }
        Some(Ask::Help) => {
            println!("{HELP}");
            return Ok(());
        }
        None => {}
    }
    crate::logging::start(crate::cli::LogFormat::Text, 0);
    let _written = flags.pidfile.as_deref().map(PidFile::write).transpose()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(flags))
}

/// The process's id, in a file for as long as it runs.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, String> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|e| format!("dns: cannot write -pidfile {}: {e}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody else may have taken it away.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The Corefile that is meant, or what stands in for it (`confLoader`, `defaultLoader`, and core/dnsserver/register.go).
fn settings(flags: &Flags) -> Result<Settings, String> {
    let stdin = flags.conf.as_deref() == Some(Path::new("stdin"));
    let mut settings = Settings::new(flags.conf.clone().unwrap_or_else(|| "Corefile".into()));
    if let Some(port) = flags.port {
        settings.default_port = port;
    }
    settings.quiet = flags.quiet;
    if stdin {
        let text = std::io::read_to_string(std::io::stdin().lock());
        settings.text = Some(text.map_err(|e| format!("dns: cannot read standard input: {e}"))?);
    } else if let Some(path) = flags.conf.as_deref().filter(|path| !path.exists()) {
        let path = path.display();
        return Err(format!("dns: -conf {path}: there is no such file; name the Corefile, or `stdin`"));
    } else if flags.conf.is_none() && !settings.corefile.exists() {
        settings.text = Some(format!(".:{} {{\nwhoami\nlog\n}}\n", settings.default_port));
    }
    Ok(settings)
}

async fn serve(flags: Flags) -> Result<(), String> {
    let settings = settings(&flags)?;
    reload_on_signal(settings.reload.clone())?;
    let watches = Watches::default();
    let ended = terminated(settings.log.clone())?;
    let served = sealane_dnsserver::run(settings, Feed::Made(watches.feeder()), ended).await;
    // What is known is saved for the next start, where that is wanted.
    watches.end().await;
    served.map_err(|e| e.to_string())
}

/// What is watched for configurations, each for as long as it is in force.
#[derive(Clone, Default)]
struct Watches {
    tasks: Arc<Mutex<JoinSet<()>>>,
    /// The server has ended.
    stop: Arc<watch::Sender<bool>>,
}

impl Watches {
    fn feeder(&self) -> Feeder {
        let watches = self.clone();
        Arc::new(move |needs| {
            let watches = watches.clone();
            Box::pin(async move { watches.begin(&needs).await })
        })
    }

    /// Done when the server is, or when nobody reads what is watched.
    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move { drop(stop.wait_for(|stop| *stop).await) }
    }

    fn spawn(&self, watch: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(watch);
    }

    async fn begin(&self, needs: &Needs) -> Result<Feeds, String> {
        let channel = || watch::channel(Arc::new(Snapshot::default()));
        let (publish, snapshots) = channel();
        let mut feeds = Feeds { snapshots, imports: None };
        if !needs.cluster {
            return Ok(feeds);
        }
        let client = client(&needs.one_access()?).await?;
        let warm = needs.one_warm_start()?;
        if needs.imports {
            let (publish, imports) = channel();
            feeds.imports = Some(imports);
            self.spawn(watch_imports(client.clone(), publish, self.stopped()));
        }
        let sources = sources(needs);
        let warm_start = warm.map(|file| WarmStart { path: file.path.clone().into(), max_age: file.max_age });
        let options = CatalogOptions {
            warm_start,
            loaded: Some(Box::new(memory::give_back)),
            ..CatalogOptions::default()
        };
        let stopped = self.stopped();
        self.spawn(async move { watch_catalog(client, &sources, options, publish, stopped).await });
        Ok(feeds)
    }

    async fn end(self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tasks.join_next().await {
            if let Err(panicked) = ended {
                tracing::error!("the catalog's last words: {panicked}");
            }
        }
    }
}

fn sources(needs: &Needs) -> Vec<Source> {
    let always = [Source::Services, Source::EndpointSlices, Source::Namespaces];
    let wanted = [
        (needs.pods, Source::Pods),
        (needs.nodes, Source::Nodes),
        (needs.destination_rules, Source::DestinationRules),
    ];
    let wanted = wanted.into_iter().filter_map(|(wanted, source)| wanted.then_some(source));
    always.into_iter().chain(wanted).collect()
}

/// Comes with the first INT or TERM; a second INT waits for nothing, as CoreDNS's.
fn terminated(log: LogSink) -> Result<impl Future<Output = ()> + Send, String> {
    let wait = |kind| signal(kind).map_err(|e| format!("cannot wait for signals: {e}"));
    let (mut int, mut term) = (wait(SignalKind::interrupt())?, wait(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = int.recv() => log("[INFO] SIGINT: Shutting down"),
            _ = term.recv() => log("[INFO] SIGTERM: Shutting down servers then terminating"),
        }
        tokio::spawn(async move {
            int.recv().await;
            log("[INFO] SIGINT: Force quit");
            std::process::exit(2);
        });
    })
}

/// USR1 loads the Corefile again, HUP does nothing: as CoreDNS's.
fn reload_on_signal(reload: Arc<Notify>) -> Result<(), String> {
    let wait = |kind| signal(kind).map_err(|e| format!("cannot wait for signals: {e}"));
    let (mut usr1, mut hup) = (wait(SignalKind::user_defined1())?, wait(SignalKind::hangup())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = usr1.recv() => reload.notify_one(),
                Some(()) = hup.recv() => {}
                else => return,
            }
        }
    });
    Ok(())
}

/// The API as the Corefile says, or by the Pod's ServiceAccount, or by KUBECONFIG outside of a Pod.
async fn client(access: &ApiAccess) -> Result<kube::Client, String> {
    let config = match kubeconfig(access)? {
        Some((found, options)) => {
            let path = access.kubeconfig.as_deref().unwrap_or("the Corefile's endpoint");
            kubeconfig::config(path, found, &options).await
        }
        None => match kube::Config::incluster_env() {
            Ok(config) => Ok(config),
            Err(_) => outside().await,
        },
    };
    let config = config.map_err(|e| format!("no way to the API: {e}"))?;
    kube::Client::try_from(config).map_err(|e| format!("the API's client: {e}"))
}

/// By KUBECONFIG, or the file of the user's own.
async fn outside() -> Result<kube::Config, String> {
    if let Ok(path) = std::env::var("KUBECONFIG")
        && !path.is_empty()
        && !path.contains(':')
    {
        return kubeconfig::config(&path, kubeconfig::read(&path)?, &KubeConfigOptions::default()).await;
    }
    let found = kube::Config::infer().await.map_err(|e| {
        format!("{e}; outside of a Pod set KUBECONFIG, or `kubeconfig` within the Corefile's kubernetes")
    })?;
    kubeconfig::with_server(found)
}

/// What `kubeconfig`, or else `endpoint` and `tls`, of the Corefile's `kubernetes` say; `None`: nothing. Without an
/// endpoint `tls` means nothing, as for CoreDNS.
fn kubeconfig(access: &ApiAccess) -> Result<Option<(Kubeconfig, KubeConfigOptions)>, String> {
    let mut options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &access.kubeconfig {
        let config = kubeconfig::read(path).map_err(|e| format!("no way to the API: {e}"))?;
        return Ok(Some((config, options)));
    }
    let Some(server) = access.endpoint.clone() else { return Ok(None) };
    let name = "corefile".to_owned();
    let files = access.tls.as_ref();
    let cluster = Cluster {
        server: Some(server),
        certificate_authority: files.map(|files| files.authorities.clone()),
        ..Cluster::default()
    };
    let user = AuthInfo {
        client_certificate: files.map(|files| files.certificate.clone()),
        client_key: files.map(|files| files.key.clone()),
        ..AuthInfo::default()
    };
    options.cluster = Some(name.clone());
    options.user = Some(name.clone());
    options.context = Some(name.clone());
    let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
    let config = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext { name, context: Some(context), ..NamedContext::default() }],
        ..Kubeconfig::default()
    };
    Ok(Some((config, options)))
}

#[cfg(test)]
mod tests {
    use sealane_dnsserver::ClientFiles;

    use super::*;

    #[test]
    fn flags_are_corednss() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for text in ["-conf /x -dns.port 1053", "--conf=/x --dns.port=1053", "-conf=/x -p 1053"] {
            let flags = parse(&words(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((flags.conf, flags.port), (Some("/x".into()), Some(1053)), "{text}");
        }
        let flags = parse(&words("-quiet -pidfile /p -version=false")).unwrap_or_default();
        assert_eq!((flags.quiet, flags.pidfile), (true, Some("/p".into())));
        assert!(flags.ask.is_none() && flags.conf.is_none());
        for (text, why) in [
            ("-cnf x", "unknown flag -cnf"),
            ("-conf", "needs a value"),
            ("x", "unexpected"),
            ("-p a", "not a port"),
        ] {
            assert!(parse(&words(text)).err().unwrap_or_default().contains(why), "{text}");
        }
    }

    #[test]
    fn the_api_is_reached_as_the_corefile_says() {
        assert!(kubeconfig(&ApiAccess::default()).unwrap_or_default().is_none());
        let tls = ClientFiles { certificate: "c".into(), key: "k".into(), authorities: "ca".into() };
        let mut access = ApiAccess { tls: Some(tls), ..ApiAccess::default() };
        // Inside of a cluster there is no use for files.
        assert!(kubeconfig(&access).unwrap_or_default().is_none());
        access.endpoint = Some("https://k8s:8443".into());
        let Ok(Some((found, options))) = kubeconfig(&access) else { panic!("nothing") };
        let cluster = found.clusters[0].cluster.clone().unwrap_or_default();
        assert_eq!(cluster.server.as_deref(), Some("https://k8s:8443"));
        assert_eq!(cluster.certificate_authority.as_deref(), Some("ca"));
        let user = found.auth_infos[0].auth_info.clone().unwrap_or_default();
        assert_eq!((user.client_certificate.as_deref(), user.client_key.as_deref()), (Some("c"), Some("k")));
        assert_eq!(options.context.as_deref(), Some(found.contexts[0].name.as_str()));
        access.kubeconfig = Some("/none".into());
        let why = kubeconfig(&access).err().unwrap_or_default();
        assert!(why.starts_with("no way to the API: /none: "), "{why}");
    }

    #[tokio::test]
    async fn an_endpoint_is_a_way_to_the_api() {
        let access = ApiAccess { endpoint: Some("http://127.0.0.1:8080".into()), ..ApiAccess::default() };
        assert!(client(&access).await.is_ok());
    }
}
