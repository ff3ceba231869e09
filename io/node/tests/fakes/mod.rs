//! A runtime whose processes are pretended, images that need no registry, and an API in memory.
#![allow(missing_docs, dead_code)]

pub mod api;

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use sealane_host::runtime::{ContainerSpec, ExecSpec, Exit, HostError, Runtime, SandboxSpec, Started};
use sealane_node::{Credentials, Endpoints, Image, ImageError, Images, PodEndpoint};
use sealane_pod::ending::Exposure;
use tokio::sync::{oneshot, watch};

struct Process {
    spec: ContainerSpec,
    exit: Option<oneshot::Sender<Exit>>,
    stdout: Option<std::io::PipeWriter>,
}

/// Processes by their program: `run` ends on TERM, `stubborn` on KILL, `exit` with its argument at once.
#[derive(Default)]
pub struct FakeRuntime {
    processes: Mutex<HashMap<String, Process>>,
    pub calls: Mutex<Vec<String>>,
    /// Commands that hang, until they are killed.
    hanging: Mutex<Vec<(oneshot::Sender<Exit>, std::io::PipeWriter)>>,
}

impl FakeRuntime {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn finish(process: &mut Process, code: i32, signal: i32, node_lost: bool) {
        process.stdout = None;
        if let Some(exit) = process.exit.take() {
            let _ = exit.send(Exit { code, signal, oom_killed: false, node_lost });
        }
    }

    /// The launcher dies with all it had.
    pub fn lose(&self) {
        for process in self.processes.lock().unwrap().values_mut() {
            Self::finish(process, 137, 9, true);
        }
    }

    pub fn spec(&self, program: &str) -> ContainerSpec {
        let all = self.processes.lock().unwrap();
        all.values().find(|p| p.spec.args[0] == program && p.exit.is_some()).map(|p| p.spec.clone()).unwrap()
    }

    /// The container of this program prints something.
    pub fn print(&self, program: &str, text: &str) {
        let mut all = self.processes.lock().unwrap();
        let p = all.values_mut().find(|p| p.spec.args[0] == program && p.stdout.is_some()).unwrap();
        p.stdout.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Nobody reads what a hanging command prints.
    pub fn is_left(&self) -> bool {
        let mut hanging = self.hanging.lock().unwrap();
        let (_, out) = hanging.last_mut().unwrap();
        out.write_all(b".").is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    }

    fn pipe() -> (OwnedFd, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader.into(), writer)
    }
}

impl Runtime for FakeRuntime {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<(), HostError> {
        self.note(format!("sandbox {} {:?}", spec.hostname, spec.address));
        Ok(())
    }

    async fn remove_sandbox(&self, _: &str) -> Result<(), HostError> {
        self.note("remove sandbox".to_owned());
        for process in self.processes.lock().unwrap().values_mut() {
            Self::finish(process, 137, 9, false);
        }
        Ok(())
    }

    async fn start_container(&self, spec: ContainerSpec) -> Result<Started, HostError> {
        let program = spec.args[0].clone();
        self.note(format!("start {program}"));
        if program == "missing" {
            return Err(HostError::CannotRun("missing: no such program".to_owned()));
        }
        let (stdout, mut out) = Self::pipe();
        let (tx, exit) = oneshot::channel();
        out.write_all(format!("{program} begins\n").as_bytes()).unwrap();
        let mut process = Process { spec: spec.clone(), exit: Some(tx), stdout: Some(out) };
        if program == "exit" {
            Self::finish(&mut process, spec.args[1].parse().unwrap(), 0, false);
        }
        self.processes.lock().unwrap().insert(spec.id, process);
        Ok(Started { pid: 1, process: 1, stdin: None, stdout: Some(stdout), stderr: None, exit })
    }

    async fn signal(&self, container: &str, signal: i32) -> Result<(), HostError> {
        let mut all = self.processes.lock().unwrap();
        let process = all.get_mut(container).ok_or_else(|| HostError::Unknown(container.to_owned()))?;
        let program = process.spec.args[0].clone();
        self.note(format!("signal {program} {signal}"));
        if signal == 9 || program != "stubborn" {
            Self::finish(process, 128 + signal, signal, false);
        }
        Ok(())
    }

    async fn remove_container(&self, _: &str) -> Result<(), HostError> {
        Ok(())
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Started, HostError> {
        self.note(format!("exec {}", spec.args.join(" ")));
        let (stdout, mut out) = Self::pipe();
        out.write_all(spec.args.join(" ").as_bytes()).unwrap();
        let (stderr, mut errors) = Self::pipe();
        let (tx, exit) = oneshot::channel();
        let end = |code| Exit { code, signal: 0, oom_killed: false, node_lost: false };
        match spec.args[0].as_str() {
            "hang" => self.hanging.lock().unwrap().push((tx, out)),
            // More than a pipe holds goes to standard error, while standard output stays open.
            "complain" => drop(std::thread::spawn(move || {
                errors.write_all(&[b'x'; 256 << 10]).unwrap();
                drop(out);
                let _ = tx.send(end(0));
            })),
            _ => drop(tx.send(end(3))),
        }
        Ok(Started { pid: 2, process: 2, stdin: None, stdout: Some(stdout), stderr: Some(stderr), exit })
    }

    async fn kill_exec(&self, process: u64) -> Result<(), HostError> {
        self.note(format!("kill {process}"));
        for (tx, _) in self.hanging.lock().unwrap().drain(..) {
            let _ = tx.send(Exit { code: 137, signal: 9, oom_killed: false, node_lost: false });
        }
        Ok(())
    }

    fn resize(&self, _: &OwnedFd, _: u16, _: u16) -> Result<(), HostError> {
        Ok(())
    }

    async fn dial(&self, _: &str, port: u16) -> Result<tokio::net::TcpStream, HostError> {
        self.connect_from_node(([127, 0, 0, 1], port).into()).await
    }

    async fn connect_from_node(&self, to: SocketAddr) -> Result<tokio::net::TcpStream, HostError> {
        let to = SocketAddr::from(([127, 0, 0, 1], to.port()));
        let step = |source| HostError::Step { context: "connect".to_owned(), source };
        tokio::net::TcpStream::connect(to).await.map_err(step)
    }
}

/// Has `img:1`; pulls nothing.
pub struct FakeImages;

impl Images for FakeImages {
    fn present(&self, reference: &str) -> Option<Image> {
        (reference == "img:1").then(|| Image {
            id: "img@sha256:1".to_owned(),
            entrypoint: vec!["run".to_owned()],
            env: vec!["FROM=image".to_owned()],
            ..Image::default()
        })
    }
    async fn pull(&self, reference: &str, _: Option<Credentials>) -> Result<Image, ImageError> {
        Err(ImageError(format!("{reference}: not found")))
    }
    fn is_pinned(&self, _: &str) -> bool {
        true
    }
}

pub fn runtime() -> Arc<FakeRuntime> {
    Arc::new(FakeRuntime::default())
}

/// Service rules that have every Pod as the same.
pub struct FakeEndpoints {
    runtime: Arc<FakeRuntime>,
    exposure: watch::Sender<Exposure>,
}

impl FakeEndpoints {
    pub fn new(runtime: Arc<FakeRuntime>, exposure: Exposure) -> Self {
        FakeEndpoints { runtime, exposure: watch::Sender::new(exposure) }
    }

    /// Rules are otherwise from now on.
    pub fn set(&self, exposure: Exposure) {
        self.runtime.note(format!("rules {exposure:?}"));
        self.exposure.send_replace(exposure);
    }
}

impl Endpoints for FakeEndpoints {
    fn fallen(&self, of: &PodEndpoint, most: Exposure) -> BoxFuture<'static, Exposure> {
        let (mut exposure, pod, runtime) = (self.exposure.subscribe(), of.pod.clone(), self.runtime.clone());
        Box::pin(async move {
            if *exposure.borrow() > most {
                runtime.note(format!("{pod} waits for {most:?}"));
            }
            *exposure.wait_for(|e| *e <= most).await.unwrap()
        })
    }
}
