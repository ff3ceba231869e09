//! `sealane demo`: stories played with real Pods and connections.

mod chart;
mod grpc;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli::{DemoArgs, UpArgs};
use crate::config::{UpConfig, data_dir};
use crate::up;
use crate::up::report::Report;

/// A story: its name and what it shows.
const STORIES: &[(&str, &str)] =
    &[("grpc", "why all calls of one gRPC channel land on one Pod, and how a headless Service spreads them")];

/// The command.
pub(crate) fn run(args: &DemoArgs) -> Result<(), String> {
    let Some(name) = &args.name else {
        println!("stories:");
        for (name, what) in STORIES {
            println!("  {name:<8}{what}");
        }
        println!("\nrun one with `sealane demo NAME`");
        return Ok(());
    };
    if !STORIES.iter().any(|(story, _)| story == name) {
        let known: Vec<&str> = STORIES.iter().map(|(n, _)| *n).collect();
        return Err(format!("no story {name:?}; there is: {}", known.join(", ")));
    }
    let default = data_dir(None)?;
    if up::running(&default) {
        return on_running(args, default);
    }
    on_throw_away(args)
}

/// On the `up` that runs already.
fn on_running(args: &DemoArgs, data: PathBuf) -> Result<(), String> {
    up::runtime()?.block_on(async {
        let path = data.join("kubeconfig");
        let read =
            kube::config::Kubeconfig::read_from(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let config =
            kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default()).await;
        let client = kube::Client::try_from(config.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        let story = play(client.clone(), args);
        let result = tokio::select! {
            result = story => result,
            () = up::terminated() => Err("interrupted".to_owned()),
        };
        if args.keep {
            println!(
                "\nkept in namespace {}; remove it with: kubectl delete namespace {}",
                grpc::NAMESPACE,
                grpc::NAMESPACE
            );
        } else {
            grpc::remove(&client).await?;
        }
        result
    })
}

/// On one of its own, which is gone afterwards.
fn on_throw_away(args: &DemoArgs) -> Result<(), String> {
    let begun = Instant::now();
    let dir = std::env::temp_dir().join(format!("sealane-demo-{}", std::process::id()));
    let flags = UpArgs {
        data_dir: Some(dir.clone()),
        api_address: Some(([127, 0, 0, 1], 0).into()),
        ..UpArgs::default()
    };
    let config = UpConfig::new(&flags)?;
    crate::logging::start(config.log_format, 0);
    let rootless = up::become_root(&config)?;
    let result = up::runtime()?.block_on(async {
        let mut stop = up::Stop::new()?;
        let running = tokio::select! {
            running = up::start(config, rootless, begun, Report::silent(begun)) => running?,
            () = stop.asked() => return Err("interrupted".to_owned()),
        };
        println!("a cluster of one node, ready in {:.2} s", begun.elapsed().as_secs_f64());
        let story = play(running.api().client("kubernetes-admin", &["system:masters"]), args);
        let result = tokio::select! {
            result = story => result,
            () = stop.asked() => Err("interrupted".to_owned()),
        };
        if args.keep && result.is_ok() {
            println!(
                "\nkept running; look at it with: export KUBECONFIG={}",
                running.config().kubeconfig.display()
            );
            println!("Ctrl-C ends and removes it");
            stop.asked().await;
        }
        tokio::select! {
            () = running.stop(Duration::from_secs(2)) => {}
            () = stop.asked() => {}
        }
        result
    });
    // Nothing that anybody asked to keep is in it.
    let _ = std::fs::remove_dir_all(&dir);
    result
}

async fn play(client: kube::Client, args: &DemoArgs) -> Result<(), String> {
    grpc::play(client, args.calls, std::io::stdout().is_terminal()).await
}
