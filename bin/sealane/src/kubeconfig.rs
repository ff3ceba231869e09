//! The way to the API that a kubeconfig tells. What is wrong with one is said with the file's name and what to do: kube
//! itself says neither, says it in several lines, or panics later.

use std::error::Error;

use kube::config::{KubeConfigOptions, Kubeconfig};

/// Reads a file; what its own paths are relative to is its folder.
pub(crate) fn read(path: &str) -> Result<Kubeconfig, String> {
    Kubeconfig::read_from(path).map_err(|error| match error.source() {
        Some(why) if why.is::<std::io::Error>() => {
            format!("{path}: {why}; name a kubeconfig that is there")
        }
        Some(why) => placed(path, &why.to_string()),
        None => placed(path, &error.to_string()),
    })
}

/// What a YAML reader says, `error: line 3 column 11: WHAT` and the text around it, in a line.
fn placed(path: &str, said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    let line = line.rsplit_once("error: ").map_or(line, |(_, what)| what);
    let place = line.strip_prefix("line ").and_then(|rest| {
        let (number, rest) = rest.split_once(" column ")?;
        let (column, what) = rest.split_once(": ")?;
        Some((number.parse::<u32>().ok()?, column.parse::<u32>().ok()?, what))
    });
    match place {
        Some((number, column, what)) => {
            format!(
                "{path}:{number}:{column}: {what}; a kubeconfig is YAML as `kubectl config view` prints it"
            )
        }
        None => format!("{path}: {line}"),
    }
}

/// What a kubeconfig says, which came from `path`.
pub(crate) async fn config(
    path: &str,
    kubeconfig: Kubeconfig,
    options: &KubeConfigOptions,
) -> Result<kube::Config, String> {
    complete(&kubeconfig, options).map_err(|why| format!("{path}: {why}"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, options).await;
    with_server(config.map_err(|why| format!("{path}: {why}"))?).map_err(|why| format!("{path}: {why}"))
}

/// A way that names a server as a URL.
pub(crate) fn with_server(config: kube::Config) -> Result<kube::Config, String> {
    let url = &config.cluster_url;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(config),
        _ => {
            let url = url.to_string();
            let url = url.trim_end_matches('/');
            Err(format!("the server {url:?} is no URL; write it like https://10.0.0.1:6443"))
        }
    }
}

/// Whether all that the context names is there.
fn complete(kubeconfig: &Kubeconfig, options: &KubeConfigOptions) -> Result<(), String> {
    let contexts = kubeconfig.contexts.iter().map(|context| context.name.as_str());
    let known = listed(contexts, "there is no context; is it a kubeconfig?", "contexts are");
    let asked = options.context.as_deref().or(kubeconfig.current_context.as_deref());
    let Some(name) = asked.filter(|name| !name.is_empty()) else {
        return Err(format!("current-context is missing; {known}"));
    };
    let context = kubeconfig.contexts.iter().find(|context| context.name == name);
    let Some(context) = context.and_then(|context| context.context.as_ref()) else {
        return Err(format!("there is no context {name:?}, which current-context names; {known}"));
    };
    let cluster = options.cluster.as_ref().unwrap_or(&context.cluster);
    let Some(found) = kubeconfig.clusters.iter().find(|known| known.name == *cluster) else {
        let clusters = kubeconfig.clusters.iter().map(|cluster| cluster.name.as_str());
        let known = listed(clusters, "there is none", "clusters are");
        return Err(format!("there is no cluster {cluster:?}, which context {name:?} names; {known}"));
    };
    if found.cluster.as_ref().is_none_or(|cluster| cluster.server.is_none()) {
        return Err(format!("cluster {cluster:?} has no server; write `server: https://10.0.0.1:6443`"));
    }
    let user = options.user.as_ref().or(context.user.as_ref());
    if let Some(user) = user.filter(|user| kubeconfig.auth_infos.iter().all(|known| known.name != **user)) {
        let users = kubeconfig.auth_infos.iter().map(|user| user.name.as_str());
        let known = listed(users, "there is none", "users are");
        return Err(format!("there is no user {user:?}, which context {name:?} names; {known}"));
    }
    Ok(())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, none: &str, some: &str) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { none.to_owned() } else { format!("{some} {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n\
                        contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n";

    async fn said(text: &str) -> Result<kube::Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let found = match read(path) {
            Ok(found) => config(path, found, &KubeConfigOptions::default()).await,
            Err(why) => Err(why),
        };
        found.map_err(|why| why.replace(path, "k"))
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_in_a_line() {
        assert_eq!(said(GOOD).await.unwrap().cluster_url.to_string(), "https://127.0.0.1:1/");
        for (old, new, why) in [
            (
                "current-context: x",
                "current-context: y",
                "k: there is no context \"y\", which current-context names; contexts are x",
            ),
            ("current-context: x", "", "k: current-context is missing; contexts are x"),
            (GOOD, "", "k: current-context is missing; there is no context; is it a kubeconfig?"),
            (
                "cluster: c",
                "cluster: d",
                "k: there is no cluster \"d\", which context \"x\" names; clusters are c",
            ),
            ("user: u", "user: v", "k: there is no user \"v\", which context \"x\" names; users are u"),
            (
                "{server: 'https://127.0.0.1:1'}",
                "{}",
                "k: cluster \"c\" has no server; write `server: https://10.0.0.1:6443`",
            ),
            (
                "https://127.0.0.1:1",
                "nowhere",
                "k: the server \"nowhere\" is no URL; write it like https://10.0.0.1:6443",
            ),
            ("https://127.0.0.1:1", "10.0.0.1:6443", "k: the server \"10.0.0.1:6443\" is no URL"),
            ("clusters: [", "clusters: {", "k:1:"),
            ("users: ", "\tusers: ", "k:2:"),
        ] {
            let found = said(&GOOD.replace(old, new)).await.unwrap_err();
            assert!(found.starts_with(why) && found.lines().count() == 1, "{found}\n{why}");
        }
        let none = read("/none").unwrap_err();
        assert!(
            none.starts_with("/none: No such file") && none.ends_with("name a kubeconfig that is there"),
            "{none}"
        );
    }
}
