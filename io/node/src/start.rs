//! Starts one container: image, environment, identity, mounts, process.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use sealane_host::runtime::{ContainerSpec, Exit, HostError, Identity, Mount, Runtime, Started};
use sealane_pod::environment;
use sealane_pod::expand::expand;
use sealane_pod::identity::{self, pod_name};
use sealane_pod::image::{self, Ensure};
use sealane_pod::quantity;
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;
use crate::events::Level;
use crate::images::{Image, Images};
use crate::logs::Log;
use crate::streams::{Output, feed};
use crate::volumes::{Source, Volumes};

/// Where upstream's images find their programs when they don't say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container that has just been started.
pub(crate) struct Running {
    /// The runtime's name for it.
    pub(crate) id: String,
    pub(crate) image_id: String,
    pub(crate) output: Arc<Output>,
    pub(crate) stdin: Option<mpsc::Sender<Bytes>>,
    pub(crate) terminal: Option<Arc<OwnedFd>>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) exit: oneshot::Receiver<Exit>,
    pub(crate) log: PathBuf,
    pub(crate) termination: PathBuf,
}

/// Why a container did not start.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The image: waiting reason and message.
    Image(&'static str, String),
    /// A reference leads nowhere: waiting reason and message.
    Config(&'static str, String),
    /// The process could not be started.
    Run(String),
    /// The launcher is gone.
    Lost,
}

/// What to start.
pub(crate) struct Request {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: Container,
    /// `spec.containers{web}`, for events.
    pub(crate) field: String,
    pub(crate) sandbox: String,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) volumes: Arc<Volumes>,
    /// Folder of the Pod.
    pub(crate) folder: PathBuf,
    /// How often it was started before.
    pub(crate) restarts: i32,
}

impl Request {
    fn event<R: Runtime, I: Images>(
        &self,
        ctx: &Context<R, I>,
        level: Level,
        reason: &'static str,
        message: String,
    ) {
        ctx.events.pod(&self.pod, Some(self.field.clone()), level, reason, message);
    }
}

/// Does all of it.
pub(crate) async fn start<R: Runtime, I: Images>(
    ctx: &Context<R, I>,
    req: &Request,
) -> Result<Running, Failure> {
    let image = image(ctx, req).await?;
    let config = |m: String| {
        req.event(ctx, Level::Warning, "Failed", format!("Error: {m}"));
        Failure::Config("CreateContainerConfigError", m)
    };
    let mut env = environment(ctx, req).await.map_err(config)?;
    let (passwd, group) = (of_image(&image, "etc/passwd"), of_image(&image, "etc/group"));
    let who = identity::resolve(&req.pod, &req.container, &image.user, &passwd, &group).map_err(config)?;
    let create = |m: String| {
        req.event(ctx, Level::Warning, "Failed", format!("Error: {m}"));
        Failure::Config("CreateContainerError", m)
    };
    let folder = req.folder.join(&req.container.name);
    fs::create_dir_all(&folder).map_err(|e| create(format!("cannot make {}: {e}", folder.display())))?;
    let termination = folder.join(format!("{}.termination", req.restarts));
    let log = folder.join(format!("{}.log", req.restarts));
    let mounts = mounts(req, &image, &env, &termination).map_err(create)?;
    let args = arguments(&req.container, &image, &env);
    if args.is_empty() {
        return Err(create("no command specified".to_owned()));
    }
    complete(&mut env, &image, &who, req, &ctx.config.cluster_domain);
    let id = container_id().map_err(|e| create(format!("no random number: {e}")))?;
    let output =
        Log::create(&log).map_err(|e| create(format!("cannot write the log {}: {e}", log.display())))?;
    let spec = spec(req, &image, id.clone(), args, env, who, mounts);
    let tty = spec.tty;
    match ctx.runtime.start_container(spec).await {
        Ok(started) => {
            req.event(ctx, Level::Normal, "Created", format!("Created container: {}", req.container.name));
            req.event(ctx, Level::Normal, "Started", format!("Started container {}", req.container.name));
            Ok(running(started, id, image.id, output, tty, log, termination))
        }
        Err(HostError::Lost) => Err(Failure::Lost),
        Err(error) => {
            let message = format!("failed to start container: {error}");
            req.event(ctx, Level::Warning, "Failed", format!("Error: {message}"));
            Err(Failure::Run(message))
        }
    }
}

fn running(
    started: Started,
    id: String,
    image_id: String,
    output: Log,
    tty: bool,
    log: PathBuf,
    termination: PathBuf,
) -> Running {
    let any = started.stdout.as_ref().or(started.stdin.as_ref());
    let terminal = any.filter(|_| tty).and_then(|fd| fd.try_clone().ok()).map(Arc::new);
    Running {
        id,
        image_id,
        output: Arc::new(Output::new(output)),
        stdin: started.stdin.map(feed),
        terminal,
        stdout: started.stdout,
        stderr: started.stderr,
        exit: started.exit,
        log,
        termination,
    }
}

/// 64 hexadecimal digits, as other runtimes' ids are.
fn container_id() -> io::Result<String> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

async fn image<R: Runtime, I: Images>(ctx: &Context<R, I>, req: &Request) -> Result<Image, Failure> {
    let reference = req.container.image.clone().unwrap_or_default();
    if !image::valid_reference(&reference) {
        let m = format!(
            "Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: invalid reference format"
        );
        req.event(ctx, Level::Warning, "InspectFailed", m.clone());
        return Err(Failure::Image("InvalidImageName", m));
    }
    let present = ctx.images.present(&reference);
    let pinned = present.is_some() && ctx.images.is_pinned(&reference);
    match (image::ensure(&req.container, present.is_some(), pinned), present) {
        (Ensure::Present, Some(image)) => {
            let m = format!("Container image {reference:?} already present on machine");
            req.event(ctx, Level::Normal, "Pulled", m);
            Ok(image)
        }
        (Ensure::Pinned, Some(image)) => {
            let m = format!(
                "Container image {reference:?} already present on machine: it is loaded from an archive or built in, \
                 which meets imagePullPolicy Always"
            );
            req.event(ctx, Level::Normal, "Pulled", m);
            Ok(image)
        }
        (Ensure::Never, _) => {
            let m = format!("Container image {reference:?} is not present with pull policy of Never");
            req.event(ctx, Level::Warning, "ErrImageNeverPull", m.clone());
            Err(Failure::Image("ErrImageNeverPull", m))
        }
        _ => pull(ctx, req, &reference).await,
    }
}

async fn pull<R: Runtime, I: Images>(
    ctx: &Context<R, I>,
    req: &Request,
    reference: &str,
) -> Result<Image, Failure> {
    req.event(ctx, Level::Normal, "Pulling", format!("Pulling image {reference:?}"));
    let begun = std::time::Instant::now();
    let mut auth = None;
    let secrets = req.pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_ref());
    let namespace = req.pod.metadata.namespace.as_deref().unwrap_or("default");
    for name in secrets.into_iter().flatten().map(|r| r.name.as_str()) {
        let secret: Option<Secret> = ctx.objects.secret(namespace, name).await.ok().flatten();
        auth = auth.or_else(|| secret.and_then(|s| image::login(reference, &s)));
    }
    match ctx.images.pull(reference, auth).await {
        Ok(image) => {
            let took = begun.elapsed().as_millis();
            let m = format!(
                "Successfully pulled image {reference:?} in {took}ms ({took}ms including waiting). Image size: {} bytes.",
                image.size
            );
            req.event(ctx, Level::Normal, "Pulled", m);
            Ok(image)
        }
        Err(error) => {
            let m = format!("failed to pull image {reference:?}: {error}");
            req.event(ctx, Level::Warning, "Failed", format!("Failed to pull image {reference:?}: {error}"));
            req.event(ctx, Level::Warning, "Failed", "Error: ErrImagePull".to_owned());
            Err(Failure::Image("ErrImagePull", m))
        }
    }
}

type Env = Vec<(String, String)>;

async fn environment<R: Runtime, I: Images>(ctx: &Context<R, I>, req: &Request) -> Result<Env, String> {
    let namespace = req.pod.metadata.namespace.as_deref().unwrap_or("default");
    let (maps, secrets) = environment::referenced_objects(&req.container);
    let fetched = ctx.objects.fetch(namespace, maps, secrets).await.map_err(|e| e.to_string())?;
    let links = req.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = ctx.services.state();
    let services = environment::service_variables(&req.pod, services.iter().map(|s| &**s), links);
    environment::container(&req.pod, &req.container, &ctx.facts(req.address), &services, &fetched)
}

/// What the image and the runtime add below what the Pod says.
fn complete(env: &mut Env, image: &Image, who: &identity::Identity, req: &Request, domain: &str) {
    let mut add = |name: &str, value: String| {
        if !env.iter().any(|(n, _)| n == name) {
            env.push((name.to_owned(), value));
        }
    };
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        add(name, value.to_owned());
    }
    add("PATH", DEFAULT_PATH.to_owned());
    add("HOSTNAME", sealane_pod::files::hostname(&req.pod, domain).0);
    add("HOME", who.home.clone());
    if req.container.tty == Some(true) {
        add("TERM", "xterm".to_owned());
    }
}

fn arguments(container: &Container, image: &Image, env: &Env) -> Vec<String> {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| expand(a, lookup)).collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    }
}

fn spec(
    req: &Request,
    image: &Image,
    id: String,
    args: Vec<String>,
    env: Env,
    who: identity::Identity,
    mounts: Vec<Mount>,
) -> ContainerSpec {
    let c = &req.container;
    let security = c.security_context.as_ref();
    let capabilities = security.and_then(|s| s.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|n| n.trim_start_matches("CAP_").to_owned()).collect()
    };
    let amount = |limit: bool, name: &str| {
        let r = c.resources.as_ref()?;
        let list = if limit { r.limits.as_ref() } else { r.requests.as_ref() };
        list?.get(name).cloned()
    };
    let cwd = c.working_dir.as_deref().filter(|d| !d.is_empty()).unwrap_or(&image.working_dir);
    ContainerSpec {
        id,
        sandbox: req.sandbox.clone(),
        layers: image.layers.clone(),
        args,
        env: env.into_iter().map(|(n, v)| format!("{n}={v}")).collect(),
        cwd: PathBuf::from(if cwd.is_empty() { "/" } else { cwd }),
        identity: Identity { uid: who.uid, gid: who.gid, groups: who.groups },
        mounts,
        tty: c.tty == Some(true),
        stdin: c.stdin == Some(true),
        read_only_root: security.and_then(|s| s.read_only_root_filesystem) == Some(true),
        privileged: security.and_then(|s| s.privileged) == Some(true),
        add_capabilities: names(capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: names(capabilities.and_then(|c| c.drop.as_ref())),
        no_new_privileges: security.and_then(|s| s.allow_privilege_escalation) == Some(false),
        memory_limit: amount(true, "memory").and_then(|q| quantity::units(&q)),
        cpu_limit_milli: amount(true, "cpu").and_then(|q| quantity::thousandths(&q)),
        cpu_request_milli: amount(false, "cpu").and_then(|q| quantity::thousandths(&q)),
    }
}

/// A file of the image as its highest layer has it; links don't lead out of the layer.
fn of_image(image: &Image, path: &str) -> String {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    for layer in image.layers.iter().rev() {
        let Ok(root) = open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let found =
            openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
        let Ok(fd) = found else { continue };
        let mut text = String::new();
        if io::Read::read_to_string(&mut io::Read::take(fs::File::from(fd), 1 << 20), &mut text).is_ok() {
            return text;
        }
    }
    String::new()
}

/// Volumes, the Pod's files, the termination message, what the image brings; parents before what is below them.
fn mounts(req: &Request, image: &Image, env: &Env, termination: &Path) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    let bind = |source: PathBuf, target: &str, read_only| Mount {
        source,
        target: PathBuf::from(target),
        read_only,
        tmpfs: None,
    };
    for m in req.container.volume_mounts.iter().flatten() {
        let source = req.volumes.sources.get(&m.name);
        let source = source
            .ok_or_else(|| format!("volume {:?} of pod {} does not exist", m.name, pod_name(&req.pod)))?;
        let below = match (&m.sub_path, &m.sub_path_expr) {
            (Some(p), _) if !p.is_empty() => p.clone(),
            (_, Some(e)) if !e.is_empty() => {
                expand(e, |n| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone()))
            }
            _ => String::new(),
        };
        let read_only = m.read_only == Some(true);
        let target = absolute(&m.mount_path);
        out.push(match source {
            Source::Path(path) if below.is_empty() => bind(path.clone(), &target, read_only),
            Source::Path(path) => bind(sub_path(path, &below)?, &target, read_only),
            Source::Memory(path, bytes) => {
                Mount { tmpfs: Some(*bytes), ..bind(path.clone(), &target, read_only) }
            }
        });
    }
    let has = |out: &[Mount], path: &str| out.iter().any(|m| m.target == Path::new(path));
    for (file, target) in
        [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
    {
        if !has(&out, target) {
            out.push(bind(req.folder.join(".etc").join(file), target, false));
        }
    }
    let message = req.container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let make = fs::write(termination, "")
        .and_then(|()| fs::set_permissions(termination, fs::Permissions::from_mode(0o666)));
    make.map_err(|e| format!("cannot make {}: {e}", termination.display()))?;
    out.push(bind(termination.to_owned(), message.unwrap_or("/dev/termination-log"), false));
    out.extend(image.extra_mounts.iter().cloned());
    out.sort_by_key(|m| m.target.components().count());
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// `below` within the volume: made where missing, never outside (CVE-2017-1002101).
fn sub_path(volume: &Path, below: &str) -> Result<PathBuf, String> {
    let inside = Path::new(below).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(format!("subPath {below:?} must be relative and must not contain \"..\""));
    }
    let base = volume.canonicalize().map_err(|e| format!("cannot find {}: {e}", volume.display()))?;
    let mut at = base.clone();
    for part in Path::new(below).components() {
        at.push(part);
        if fs::symlink_metadata(&at).is_err() {
            fs::create_dir(&at).map_err(|e| format!("cannot make subPath {below:?}: {e}"))?;
        }
        at = at.canonicalize().map_err(|e| format!("cannot find subPath {below:?}: {e}"))?;
        if !at.starts_with(&base) {
            return Err(format!("subPath {below:?} leads out of the volume"));
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn commands_and_arguments() {
        let image = Image { entrypoint: vec!["e".into()], cmd: vec!["c".into()], ..Image::default() };
        let env = vec![("N".to_owned(), "5".to_owned())];
        for (container, want) in [
            (json!({"name": "x"}), vec!["e", "c"]),
            (json!({"name": "x", "args": ["$(N)"]}), vec!["e", "5"]),
            (json!({"name": "x", "command": ["a"]}), vec!["a"]),
            (json!({"name": "x", "command": ["a"], "args": ["$$(N)"]}), vec!["a", "$(N)"]),
        ] {
            assert_eq!(arguments(&from_value(container.clone()).unwrap(), &image, &env), want, "{container}");
        }
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(&volume).unwrap();
        assert!(sub_path(&volume, "a/b").unwrap().ends_with("v/a/b"));
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        assert!(sub_path(&volume, "out").is_err());
        assert!(sub_path(&volume, "out/new").is_err());
        assert!(sub_path(&volume, "../x").is_err());
        assert!(sub_path(&volume, "/etc").is_err());
    }

    #[test]
    fn files_of_images_stay_in_their_layer() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        fs::create_dir_all(low.join("etc")).unwrap();
        fs::create_dir_all(&high).unwrap();
        fs::write(low.join("etc/passwd"), "low").unwrap();
        let image = Image { layers: vec![low, high.clone()], ..Image::default() };
        assert_eq!(of_image(&image, "etc/passwd"), "low");
        std::os::unix::fs::symlink(dir.path(), high.join("etc")).unwrap();
        fs::write(dir.path().join("passwd"), "outside").unwrap();
        assert_eq!(of_image(&image, "etc/passwd"), "low");
    }
}
