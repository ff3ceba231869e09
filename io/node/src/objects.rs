//! ConfigMaps, Secrets and tokens that Pods refer to: read when needed, watched while a volume shows them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use sealane_pod::environment::References;
use tokio::sync::watch;

/// ConfigMap or Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

type Key = (Kind, String, String);

/// Reads and watches.
#[derive(Clone)]
pub(crate) struct Objects {
    client: kube::Client,
    watched: Arc<Mutex<HashMap<Key, watch::Sender<u64>>>>,
}

/// Objects that were read for one container's environment.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    maps: HashMap<String, ConfigMap>,
    secrets: HashMap<String, Secret>,
}

impl References for Fetched {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.maps.get(name)
    }
    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Self {
        Objects { client, watched: Arc::default() }
    }

    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, kube::Error> {
        Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, kube::Error> {
        Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await
    }

    /// Reads what a container's environment refers to; what does not exist is left out.
    pub(crate) async fn fetch(
        &self,
        namespace: &str,
        maps: Vec<String>,
        secrets: Vec<String>,
    ) -> Result<Fetched, kube::Error> {
        let mut out = Fetched::default();
        for name in maps {
            if let Some(map) = self.config_map(namespace, &name).await? {
                out.maps.insert(name, map);
            }
        }
        for name in secrets {
            if let Some(secret) = self.secret(namespace, &name).await? {
                out.secrets.insert(name, secret);
            }
        }
        Ok(out)
    }

    /// A token of the Pod's ServiceAccount, bound to the Pod.
    pub(crate) async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
    ) -> Result<String, kube::Error> {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|a| vec![a.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
        Ok(answer.status.and_then(|s| s.token).unwrap_or_default())
    }

    /// Counts the changes of an object for as long as the receiver lives. One watch serves all Pods.
    pub(crate) fn subscribe(&self, kind: Kind, namespace: &str, name: &str) -> watch::Receiver<u64> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&key) {
            return sender.subscribe();
        }
        let (tx, rx) = watch::channel(0);
        watched.insert(key.clone(), tx);
        tokio::spawn(self.clone().follow(key));
        rx
    }

    async fn follow(self, key: Key) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.2));
        let client = self.client.clone();
        let mut changes = match key.0 {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(client, &key.1);
                watcher(api, config).default_backoff().map(|e| e.map(|e| is_change(&e))).boxed()
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(client, &key.1);
                watcher(api, config).default_backoff().map(|e| e.map(|e| is_change(&e))).boxed()
            }
        };
        let Some(sender) = self.lock().get(&key).cloned() else { return };
        loop {
            tokio::select! {
                () = sender.closed() => {
                    let mut watched = self.lock();
                    // Somebody may have come back between the last one's leaving and the lock.
                    if sender.receiver_count() == 0 {
                        watched.remove(&key);
                        return;
                    }
                }
                change = changes.next() => match change {
                    Some(Ok(true)) => sender.send_modify(|n| *n += 1),
                    Some(Ok(false)) => {}
                    Some(Err(error)) => tracing::debug!(%error, object = key.2, "watch interrupted"),
                    None => return,
                },
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Sender<u64>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_change<K>(event: &watcher::Event<K>) -> bool {
    matches!(event, watcher::Event::Apply(_) | watcher::Event::InitApply(_) | watcher::Event::Delete(_))
}
