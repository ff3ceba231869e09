//! A cluster with Sealane's DNS server on it, and dnsperf that asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::{self, Size};
use super::server::{Asked, Program, Server};
use crate::Result;
use crate::up::Up;

/// The API with its objects, and the questions about them.
pub(super) struct Scene {
    folder: tempfile::TempDir,
    up: Up,
    binary: PathBuf,
    /// Known when all is.
    last: String,
}

impl Scene {
    pub(super) fn new(binary: &Path, size: Size) -> Result<Scene> {
        let folder = tempfile::tempdir()?;
        let mut up = Up::without_node(binary, &folder.path().join("data"), &folder.path().join("up.log"))?;
        let (_, api) = up.api_answers()?;
        cluster::create(&api, size)?;
        fs::write(folder.path().join("questions"), cluster::questions(size))?;
        let last = cluster::service(size.services - 1);
        Ok(Scene { folder, up, binary: binary.to_owned(), last })
    }

    /// The server on these cores, as it is when it has been asked for a while.
    pub(super) fn server(&self, cores: &str) -> Result<Server> {
        self.server_with(cores, "")
    }

    /// The same with another line in its Corefile.
    pub(super) fn server_with(&self, cores: &str, line: &str) -> Result<Server> {
        let folder = self.folder.path();
        let kubeconfig = folder.join("data/kubeconfig");
        let corefile = Program::Sealane.configuration(folder, &kubeconfig);
        let corefile = corefile.replacen(" {\n", &format!(" {{\n    {line}\n"), 1);
        let what = (Program::Sealane, cores, corefile.as_str());
        let server = Server::configured(what, &self.binary, folder, &kubeconfig, &self.last)?;
        self.ask(&server, Load { seconds: 1, ..Load::default() })?;
        Ok(server)
    }

    /// Asks as the load says.
    pub(super) fn ask(&self, server: &Server, load: Load) -> Result<Answered> {
        ask(&self.questions(), server, load)
    }

    /// The file with the questions.
    pub(super) fn questions(&self) -> PathBuf {
        self.folder.path().join("questions")
    }

    pub(super) fn end(self) -> Result<()> {
        self.up.stop()?;
        Ok(())
    }
}

/// Asks a server as the load says.
pub(super) fn ask(questions: &Path, server: &Server, load: Load) -> Result<Answered> {
    let mut command = Command::new("taskset");
    command.args(["-c", load.cores, "dnsperf", "-s", "127.0.0.1", "-T", "1", "-c", load.clients]);
    command.args(["-p", &server.port().to_string(), "-l", &load.seconds.to_string(), "-d"]);
    command.arg(questions).args(["-q", load.at_once, "-t", load.patience, "-a", load.from]);
    if let Some(rate) = load.rate {
        command.args(["-Q", &format!("{rate:.0}")]);
    }
    let (said, spent) = Said::by(command, server)?;
    let (sent, completed) = (said.number("Queries sent:")?, said.number("Queries completed:")?);
    if completed <= 0.0 {
        return Err(format!("nothing was answered: {}", said.0).into());
    }
    let seconds = f64::from(load.seconds);
    Ok(Answered { offered: sent / seconds, rate: completed / seconds, cpu: spent / completed })
}

/// What dnsperf prints.
pub(super) struct Said(String);

impl Said {
    /// Runs it; and the CPU time that the server spent meanwhile, µs.
    pub(super) fn by(mut command: Command, server: &dyn Asked) -> Result<(Said, f64)> {
        let before = server.cpu()?;
        let output = command.output().map_err(|e| format!("dnsperf: {e}"))?;
        let spent = server.cpu()? - before;
        let both = [output.stdout, output.stderr].concat();
        Ok((Said(String::from_utf8_lossy(&both).into_owned()), spent))
    }

    /// The number behind a name.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        let line = self.0.lines().find_map(|l| l.trim().strip_prefix(name));
        let word = line.and_then(|l| l.split_whitespace().next()).and_then(|w| w.parse().ok());
        word.ok_or_else(|| format!("dnsperf: no {name:?} in: {}", self.0).into())
    }
}

/// What dnsperf does.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) cores: &'static str,
    /// The address that asks.
    pub(super) from: &'static str,
    /// Sockets that ask in turns.
    pub(super) clients: &'static str,
    pub(super) seconds: u32,
    /// Questions a second; `None`: the next one with each answer.
    pub(super) rate: Option<f64>,
    /// Questions that wait for their answers, at most.
    pub(super) at_once: &'static str,
    /// Seconds, after which an answer is none any more.
    pub(super) patience: &'static str,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            cores: "0,1",
            from: "127.0.0.1",
            clients: "64",
            seconds: 5,
            rate: None,
            at_once: "200",
            patience: "5",
        }
    }
}

/// What came of it.
pub(super) struct Answered {
    /// Questions a second.
    pub(super) offered: f64,
    /// Answers in time, a second.
    pub(super) rate: f64,
    /// µs of CPU an answer.
    pub(super) cpu: f64,
}
