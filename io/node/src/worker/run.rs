//! What a worker does: namespaces, volumes, containers, probes.

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};
use sealane_host::runtime::HostPort;

use super::*;
use crate::endpoints::PodEndpoint;

impl<R: Runtime, I: Images> Worker<R, I> {
    /// Makes what is missing of namespaces, files and volumes, all at the same time.
    pub(super) fn prepare(&mut self) {
        if !self.host_network() && self.address.is_none() {
            let had = self.pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).and_then(|a| a.parse().ok());
            let Some(address) = self.ctx.addresses().take(self.uid(), had) else {
                return self.prepared(
                    Err("no address is free in the node's Pod range".to_owned()),
                    Ok(Volumes::default()),
                );
            };
            self.address = Some(address);
        }
        self.sandbox.address = self.address.unwrap_or(self.ctx.config.node_address).to_string();
        let (ctx, pod, inbox) = (self.ctx.clone(), self.pod.clone(), self.inbox.clone());
        let (folder, address, made) = (self.folder(), self.address, self.sandbox_made);
        let spec = self.sandbox_spec();
        self.preparing = Some(Task(tokio::spawn(async move {
            let sandbox = async {
                if made {
                    return Ok(());
                }
                ctx.runtime
                    .create_sandbox(spec)
                    .await
                    .map_err(|e| format!("Failed to create pod sandbox: {e}"))
            };
            let volumes = async {
                pod_files(&ctx, &pod, &folder, address)?;
                make_volumes(&ctx, &pod, folder, address).await
            };
            let (sandbox, volumes) = tokio::join!(sandbox, volumes);
            let _ = inbox.send(Message::Prepared { sandbox, volumes });
        })));
    }

    fn sandbox_spec(&self) -> SandboxSpec {
        let spec = self.pod.spec.as_ref();
        let sysctls = spec.and_then(|s| s.security_context.as_ref()).and_then(|c| c.sysctls.as_ref());
        SandboxSpec {
            id: self.uid().to_owned(),
            hostname: match self.host_network() {
                true => self.ctx.config.node_name.clone(),
                false => files::hostname(&self.pod, &self.ctx.config.cluster_domain).0,
            },
            address: self.address,
            sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
            share_processes: spec.and_then(|s| s.share_process_namespace) == Some(true),
            ports: spec.map(host_ports).unwrap_or_default(),
        }
    }

    pub(super) fn prepared(&mut self, sandbox: Result<(), String>, volumes: Result<Volumes, String>) {
        self.preparing = None;
        match sandbox {
            Ok(()) => {
                self.sandbox_made = true;
                self.sandbox.ready = true;
            }
            Err(error) => self.event(None, Level::Warning, "FailedCreatePodSandBox", error),
        }
        match volumes {
            Ok(volumes) => self.set_volumes(volumes),
            Err(error) => self.event(None, Level::Warning, "FailedMount", error),
        }
        if !self.sandbox_made || self.volumes.is_none() {
            self.prepare_at = Timestamp::now().checked_add(self.prepare_delay).ok();
            self.prepare_delay = (self.prepare_delay * 2).min(MAX_RETRY);
        }
    }

    pub(super) fn set_volumes(&mut self, volumes: Volumes) {
        // Copies: the originals keep the shared watch alive until the next ones are there.
        let subscriptions = volumes.subscriptions.clone();
        let inbox = self.inbox.clone();
        self.volumes_watch = (!subscriptions.is_empty()).then(|| {
            Task(tokio::spawn(async move {
                let changes =
                    subscriptions.into_iter().map(|mut s| Box::pin(async move { s.changed().await.is_ok() }));
                if futures::future::select_all(changes).await.0 {
                    let _ = inbox.send(Message::Refresh);
                }
            }))
        });
        self.volumes = Some(Arc::new(volumes));
    }

    /// Volumes are written again; what is the same stays.
    pub(super) fn refresh(&mut self) {
        if self.volumes.is_none() || self.ending.is_some() {
            return;
        }
        let (ctx, pod, inbox) = (self.ctx.clone(), self.pod.clone(), self.inbox.clone());
        let (folder, address) = (self.folder(), self.address);
        self.refreshing = Some(Task(tokio::spawn(async move {
            let result = make_volumes(&ctx, &pod, folder, address).await;
            let _ = inbox.send(Message::Refreshed(result));
        })));
    }

    /// Tries a renewal that failed again in a while.
    pub(super) fn volumes_retry(&mut self) {
        let inbox = self.inbox.clone();
        self.refreshing = Some(Task(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = inbox.send(Message::Refresh);
        })));
    }

    pub(super) fn start(&mut self, at: usize) {
        let Some(volumes) = self.volumes.clone() else { return };
        let record = &mut self.records[at];
        record.starting = true;
        if let State::Waiting { .. } = record.state
            && !record.ran
        {
            record.wait("ContainerCreating", String::new());
        }
        let restarts = record.restarts + i32::from(record.ran);
        let request = Request {
            pod: self.pod.clone(),
            container: self.container(at),
            field: self.field(at),
            sandbox: self.uid().to_owned(),
            address: self.address,
            volumes,
            folder: self.folder(),
            restarts,
        };
        let (ctx, inbox) = (self.ctx.clone(), self.inbox.clone());
        let task = tokio::spawn(async move {
            let result = start::start(&ctx, &request).await.map(Box::new);
            let _ = inbox.send(Message::Started { at, result });
        });
        self.starts.insert(at, Task(task));
    }

    pub(super) fn started(&mut self, at: usize, result: Result<Box<Running>, Failure>) {
        self.starts.remove(&at);
        if self.ending.is_some() {
            // It came after the word to end: the sandbox takes it along.
            return;
        }
        self.records[at].starting = false;
        match result {
            Ok(running) => self.runs(at, *running),
            Err(failure) => self.failed(at, failure),
        }
    }

    fn runs(&mut self, at: usize, running: Running) {
        let now = Timestamp::now();
        self.attempts += 1;
        let attempt = self.attempts;
        let container = self.container(at);
        let record = &mut self.records[at];
        if record.ran {
            record.restarts += 1;
        }
        record.run(now, format!("sealane://{}", running.id), running.image_id.clone());
        self.image_backoff.remove(&at);
        let address = self.address.unwrap_or(self.ctx.config.node_address).into();
        let target = Target { id: running.id.clone(), address, container: container.clone() };
        let done = watch::Sender::new(None);
        let probed = |kind: Kind| kind.of(&container).is_some();
        let post = container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        let mut live = Live {
            attempt,
            target: target.clone(),
            done: done.clone(),
            passed: watch::Sender::new((!probed(Kind::Startup)).then_some(now)),
            probes: HashMap::new(),
            hooked: post.is_none(),
            readiness: !probed(Kind::Readiness),
            started: now,
        };
        self.show_slot(at, &running, &done);
        self.monitor(at, attempt, running, &container);
        if let Some(hook) = post {
            let (ctx, inbox) = (self.ctx.clone(), self.inbox.clone());
            tokio::spawn(async move {
                let result = prober::hook(&*ctx.runtime, &target, &hook).await;
                let _ = inbox.send(Message::Hooked { at, attempt, result });
            });
        }
        if self.records[at].role != Role::Init {
            for kind in Kind::ALL.into_iter().filter(|k| probed(*k)) {
                let task = self.probe(at, kind, &live);
                live.probes.insert(kind, task);
            }
        }
        self.live.insert(at, live);
        self.judge(at);
    }

    fn show_slot(&self, at: usize, running: &Running, done: &watch::Sender<Option<i32>>) {
        let mut shared = self.shared.lock();
        let slot = shared.slots.entry(self.records[at].name.clone()).or_default();
        slot.previous = slot.log.take().filter(|p| *p != running.log);
        slot.log = Some(running.log.clone());
        slot.id = Some(running.id.clone());
        slot.output = Some(running.output.clone());
        slot.stdin = running.stdin.clone();
        slot.terminal = running.terminal.clone();
        slot.done = Some(done.subscribe());
    }

    /// Reads the container's output, sees its end, removes what it leaves.
    fn monitor(&self, at: usize, attempt: u32, running: Running, container: &Container) {
        let (ctx, inbox) = (self.ctx.clone(), self.inbox.clone());
        let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let Running { id, output, stdout, stderr, exit, log, termination, .. } = running;
        tokio::spawn(async move {
            let pump = tokio::spawn(async move { output.pump_all(stdout, stderr).await });
            let lost = Exit { code: 137, signal: 9, oom_killed: false, node_lost: true };
            let exit = exit.await.unwrap_or(lost);
            if exit.node_lost && ctx.config.ends_with_runtime {
                return;
            }
            // All of its processes are reaped, so its streams are at their end; a stream that was handed on may not be.
            let _ = tokio::time::timeout(Duration::from_secs(2), pump).await;
            let mut message = termination_message(&termination);
            if message.is_empty() && fallback && exit.code != 0 {
                message = logs::last_lines(&log, 80, 2048);
            }
            let _ = fs::remove_file(&termination);
            let _ = inbox.send(Message::Exited { at, attempt, exit, message });
            if !exit.node_lost
                && let Err(error) = ctx.runtime.remove_container(&id).await
            {
                tracing::warn!(%error, container = id, "what a container left is not removed");
            }
        });
    }

    /// `started` and `ready` from what is known of hook and probes.
    fn judge(&mut self, at: usize) {
        let Some(live) = self.live.get(&at) else { return };
        let record = &mut self.records[at];
        record.started = live.hooked && live.passed.borrow().is_some();
        record.ready = record.started && live.readiness;
    }

    fn probe(&self, at: usize, kind: Kind, live: &Live) -> Task {
        let Some(spec) = kind.of(&live.target.container).cloned() else {
            return Task(tokio::spawn(async {}));
        };
        let timing = probe::Timing::of(&spec);
        let (ctx, inbox, pod, field) =
            (self.ctx.clone(), self.inbox.clone(), self.pod.clone(), self.field(at));
        let (target, attempt, started) = (live.target.clone(), live.attempt, live.started);
        let mut passed = live.passed.subscribe();
        Task(tokio::spawn(async move {
            let mut worker = probe::Worker::new(kind, timing);
            let since = match kind {
                Kind::Startup => started,
                // The others wait for the startup probe; without its sender the container is gone.
                _ => match passed.wait_for(Option::is_some).await {
                    Ok(at) => at.unwrap_or(started),
                    Err(_) => return,
                },
            };
            let mut next = worker.first(started, since);
            loop {
                let wait = next.duration_since(Timestamp::now());
                tokio::time::sleep(Duration::try_from(wait).unwrap_or(Duration::ZERO)).await;
                let begun = Timestamp::now();
                let timeout = Duration::try_from(timing.timeout).unwrap_or(Duration::from_secs(1));
                let (outcome, message) = prober::attempt(&*ctx.runtime, &target, &spec, timeout).await;
                if outcome != Outcome::Success {
                    let message = format!("{} probe failed: {message}", kind.title());
                    ctx.events.pod(&pod, Some(field.clone()), Level::Warning, "Unhealthy", message);
                }
                if let Some(verdict) = worker.record(outcome) {
                    let _ = inbox.send(Message::Probed { at, attempt, kind, verdict });
                }
                match worker.next(begun) {
                    Some(at) => next = at,
                    None => return,
                }
            }
        }))
    }

    pub(super) fn probed(&mut self, at: usize, attempt: u32, kind: Kind, verdict: Outcome) {
        let Some(live) = self.live.get_mut(&at).filter(|l| l.attempt == attempt) else { return };
        match (kind, verdict) {
            (Kind::Readiness, _) => live.readiness = verdict == Outcome::Success,
            (Kind::Startup, Outcome::Success) => {
                live.passed.send_replace(Some(Timestamp::now()));
            }
            (_, Outcome::Failure) if self.ending.is_none() => {
                let own = kind.of(&live.target.container).and_then(|p| p.termination_grace_period_seconds);
                let (name, what) = (self.records[at].name.clone(), kind.title().to_lowercase());
                let message = format!("Container {name} failed {what} probe, will be restarted");
                self.event(Some(at), Level::Normal, "Killing", message);
                self.stop(at, Some(self.grace(own)));
            }
            _ => {}
        }
        self.judge(at);
    }

    pub(super) fn hooked(&mut self, at: usize, attempt: u32, result: Result<(), String>) {
        let Some(live) = self.live.get_mut(&at).filter(|l| l.attempt == attempt) else { return };
        match result {
            Ok(()) => live.hooked = true,
            Err(message) => {
                self.event(
                    Some(at),
                    Level::Warning,
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {message}"),
                );
                self.stop(at, Some(self.grace(None)));
            }
        }
        self.judge(at);
    }

    /// Hears from the service rules as the Pod's endpoints leave them.
    pub(super) fn follow_endpoints(&mut self) {
        let (endpoints, inbox) = (self.ctx.endpoints.clone(), self.inbox.clone());
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let own = PodEndpoint {
            namespace: text(&self.pod.metadata.namespace),
            pod: text(&self.pod.metadata.name),
            address: self.address.unwrap_or(self.ctx.config.node_address).into(),
        };
        self.leaving = Some(Task(tokio::spawn(async move {
            for most in [Exposure::Terminating, Exposure::Removed] {
                let found = endpoints.fallen(&own, most).await;
                let _ = inbox.send(Message::Exposed(found));
                if found == Exposure::Removed {
                    return;
                }
            }
        })));
    }

    /// Tells a container to end, within the Pod's deadline where it ends, or within `grace`.
    pub(super) fn stop(&mut self, at: usize, grace: Option<Duration>) {
        let Some(live) = self.live.get_mut(&at) else { return };
        if self.records[at].stopping && self.ending.is_none() {
            return;
        }
        live.probes.remove(&Kind::Startup);
        live.probes.remove(&Kind::Liveness);
        let (target, done) = (live.target.clone(), live.done.subscribe());
        self.records[at].stopping = true;
        if grace.is_none() {
            self.event(
                Some(at),
                Level::Normal,
                "Killing",
                format!("Stopping container {}", self.records[at].name),
            );
        }
        let own =
            (grace.is_some() || self.ending.is_none()).then(|| grace.unwrap_or_else(|| self.grace(None)));
        let deadline = match own {
            Some(grace) => watch::Sender::new(Instant::now() + grace).subscribe(),
            None => self.deadline.subscribe(),
        };
        // Nobody waits for a Pod that is gone, and the node's own end has its limit.
        let why = self.ending.as_ref().map(Ending::why);
        let hurry = matches!(why, Some(Why::Gone | Why::Shutdown));
        let minimum = if hurry { Duration::from_millis(300) } else { MINIMUM };
        let request = Stop { pod: self.pod.clone(), field: self.field(at), target, done, deadline, minimum };
        tokio::spawn(stop(self.ctx.clone(), request));
    }

    pub(super) fn exited(&mut self, at: usize, attempt: u32, exit: Exit, message: String) {
        let Some(live) = self.live.remove(&at) else { return };
        if live.attempt != attempt {
            self.live.insert(at, live);
            return;
        }
        live.done.send_replace(Some(exit.code));
        let reason = match exit {
            Exit { node_lost: true, .. } => "ContainerStatusUnknown",
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let record = &mut self.records[at];
        let ended = Ended {
            code: exit.code,
            signal: exit.signal,
            reason: reason.to_owned(),
            message,
            started: Some(live.started),
            finished: Some(Timestamp::now()),
            id: record.id.clone(),
        };
        record.end(ended);
        if let Some(slot) = self.shared.lock().slots.get_mut(&self.records[at].name) {
            (slot.id, slot.output, slot.stdin, slot.terminal) = (None, None, None, None);
        }
        if exit.node_lost {
            self.lost();
        }
    }

    /// The launcher died and the Pod's namespaces with it: all is made again, init containers too.
    fn lost(&mut self) {
        self.sandbox_made = false;
        self.sandbox.ready = false;
        if self.ending.is_none() {
            for record in self.records.iter_mut().filter(|r| r.role == Role::Init && r.ended().is_some()) {
                record.wait("PodInitializing", String::new());
            }
        }
    }

    fn failed(&mut self, at: usize, failure: Failure) {
        let now = Timestamp::now();
        let record = &mut self.records[at];
        match failure {
            Failure::Image(reason @ "ErrImagePull", message) => {
                let back = self.image_backoff.entry(at).or_default();
                back.attempt(now);
                record.wait(reason, message);
                record.retry_at = back.until(now);
            }
            Failure::Image(reason, message) | Failure::Config(reason, message) => {
                record.wait(reason, message);
                // What is wrong is outside: it is looked at again, without going through the back-off of crashes.
                record.retry_at = now.checked_add(SignedDuration::from_secs(5)).ok();
            }
            Failure::Run(message) => {
                let ended = Ended {
                    code: 128,
                    reason: "StartError".to_owned(),
                    message,
                    started: Some(now),
                    finished: Some(now),
                    ..Ended::default()
                };
                if record.ran {
                    record.restarts += 1;
                }
                record.ran = true;
                record.end(ended);
            }
            Failure::Lost => {
                record.wait("ContainerCreating", String::new());
                self.lost();
            }
        }
    }

    /// A failed pull shows its error, then that it waits (`ImagePullBackOff`).
    pub(super) fn show_pull_backoff(&mut self, now: Timestamp) {
        for at in 0..self.records.len() {
            let record = &self.records[at];
            let State::Waiting { reason, message } = &record.state else { continue };
            let (Some(retry), "ErrImagePull", false) = (record.retry_at, reason.as_str(), record.starting)
            else {
                continue;
            };
            let delay = self.image_backoff.get(&at).map_or(backoff::INITIAL, BackOff::delay);
            let shown = retry.checked_sub(delay).and_then(|t| t.checked_add(SHOW_ERROR)).unwrap_or(now);
            if shown > now {
                self.wake_at(shown);
                continue;
            }
            let image = record.image.clone();
            let waiting = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
            self.event(Some(at), Level::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
            self.records[at].wait("ImagePullBackOff", waiting);
        }
    }
}

/// The node's ports that lead to the Pod's containers, sidecars among them (`makePortMappings`).
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let number = |n: Option<i32>| n.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let one = |p: &ContainerPort| {
        let address = match p.host_ip.as_deref().unwrap_or_default() {
            "" | "0.0.0.0" => None,
            // The node has no address of IPv6, so nothing could come to one.
            text => Some(text.parse().ok()?),
        };
        let protocol = match p.protocol.as_deref() {
            Some("UDP") => 17,
            Some("SCTP") => 132,
            _ => 6,
        };
        Some(HostPort {
            protocol,
            address,
            port: number(p.host_port)?,
            target: number(Some(p.container_port))?,
        })
    };
    ports.filter_map(one).collect()
}

fn termination_message(path: &std::path::Path) -> String {
    use std::io::Read;
    let mut out = Vec::new();
    // The container wrote it: at most what the API takes (`MaxContainerTerminationMessageLength`).
    let read = fs::File::open(path).and_then(|f| f.take(4096).read_to_end(&mut out));
    if read.is_err() { String::new() } else { String::from_utf8_lossy(&out).into_owned() }
}

async fn make_volumes<R: Runtime, I: Images>(
    ctx: &Context<R, I>,
    pod: &Pod,
    folder: PathBuf,
    address: Option<Ipv4Addr>,
) -> Result<Volumes, String> {
    let facts = ctx.facts(address);
    let folder = folder.join(".volumes");
    Maker { objects: &ctx.objects, pod, facts: &facts, folder, now: Timestamp::now() }.make().await
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, written in place: containers have them mounted.
fn pod_files<R: Runtime, I: Images>(
    ctx: &Context<R, I>,
    pod: &Pod,
    folder: &std::path::Path,
    address: Option<Ipv4Addr>,
) -> Result<(), String> {
    let config = &ctx.config;
    let (hostname, domain) = files::hostname(pod, &config.cluster_domain);
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.clone()).unwrap_or_default();
    let hosts = match address {
        Some(address) => files::hosts(&address.to_string(), &hostname, &domain, &aliases),
        None => files::hosts_of_node(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases),
    };
    let host = files::parse_resolver(&fs::read_to_string(&config.host_resolv_conf).unwrap_or_default());
    let dns: Vec<String> = config.cluster_dns.iter().map(Ipv4Addr::to_string).collect();
    let resolver = files::resolver(pod, &dns, &config.cluster_domain, &host).text();
    let etc = folder.join(".etc");
    let name = if address.is_some() { format!("{hostname}\n") } else { format!("{}\n", config.node_name) };
    let write = |file: &str, text: &str| fs::write(etc.join(file), text);
    fs::create_dir_all(&etc)
        .and_then(|()| write("hosts", &hosts))
        .and_then(|()| write("hostname", &name))
        .and_then(|()| write("resolv.conf", &resolver))
        .map_err(|e| format!("cannot write below {}: {e}", etc.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn host_ports_are_those_of_containers_that_last() {
        let spec: PodSpec = from_value(json!({
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 20, "protocol": "UDP"}]}],
            "containers": [{"name": "c", "ports": [
                {"containerPort": 3},
                {"containerPort": 4, "hostPort": 40, "hostIP": "0.0.0.0", "protocol": "TCP"},
                {"containerPort": 5, "hostPort": 50, "hostIP": "10.0.0.1", "protocol": "SCTP"},
                {"containerPort": 6, "hostPort": 60, "hostIP": "::1"}]}]}))
        .unwrap();
        let port = |protocol, address, port, target| HostPort { protocol, address, port, target };
        let expected =
            [port(6, None, 40, 4), port(132, Some([10, 0, 0, 1].into()), 50, 5), port(17, None, 20, 2)];
        assert_eq!(host_ports(&spec), expected);
    }
}
