//! A Kubernetes API server of upstream's for one run of the tables: etcd, kube-apiserver and kube-controller-manager
//! on loopback, with a folder of their own that goes with them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{cargo, root, run};

/// What `/version` says of a build without upstream's scripts, as `-X` has it.
const VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.1 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
/// From start to ready.
const START: Duration = Duration::from_secs(120);

/// Builds one of upstream's programs, beside its module's go.mod; go does nothing where nothing has changed.
pub fn built(program: &str) -> Result<(), String> {
    let package = format!("k8s.io/kubernetes/cmd/{program}");
    let words = ["build", "-C", "tests/apiserver", "-ldflags", VERSION, "-o", program, &package];
    run(Command::new("go").args(words))
}

/// Runs the tables of DNS answers against it.
pub fn tables() -> Result<(), String> {
    ["kube-apiserver", "kube-controller-manager"].into_iter().try_for_each(built)?;
    run(cargo().args(["build", "-p", "sealane"]))?;
    let api = RealApi::start()?;
    let tables = ["test", "-p", "sealane-tests", "--test", "dns_tables", "--", "--nocapture"];
    let done = run(cargo().args(tables).env("SEALANE_TABLES_KUBECONFIG", api.file("kubeconfig")));
    drop(api);
    done
}

/// Ends with its processes, the last started first.
struct RealApi {
    folder: PathBuf,
    children: Vec<Child>,
}

impl RealApi {
    fn start() -> Result<RealApi, String> {
        let folder = std::env::temp_dir().join(format!("sealane-real-api-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut api = RealApi { folder, children: Vec::new() };
        let [etcd, peers, port] = [free_port()?, free_port()?, free_port()?];
        let etcd = format!("http://127.0.0.1:{etcd}");
        let peers = format!("http://127.0.0.1:{peers}");
        let key = api.file("service-account.key");
        let certificate = api.file("apiserver.crt");
        let kubeconfig = api.file("kubeconfig");
        run(Command::new("openssl").args(["genrsa", "-out", &key, "2048"]).stderr(Stdio::null()))?;
        let token = said(Command::new("openssl").args(["rand", "-hex", "16"]))?;
        api.write("tokens.csv", &format!("{token},admin,admin,system:masters\n"))?;
        api.spawn(
            "etcd",
            Path::new("etcd"),
            &[
                ("data-dir", &api.file("etcd")),
                ("listen-client-urls", &etcd),
                ("advertise-client-urls", &etcd),
                ("listen-peer-urls", &peers),
                ("initial-advertise-peer-urls", &peers),
                ("initial-cluster", &format!("default={peers}")),
            ],
        )?;
        let programs = root().join("tests/apiserver");
        api.spawn(
            "kube-apiserver",
            &programs.join("kube-apiserver"),
            &[
                ("etcd-servers", &etcd),
                ("bind-address", "127.0.0.1"),
                ("secure-port", &port.to_string()),
                // It makes its certificate here.
                ("cert-dir", &api.file("")),
                ("token-auth-file", &api.file("tokens.csv")),
                ("authorization-mode", "RBAC"),
                ("service-cluster-ip-range", "10.96.0.0/12"),
                ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
                ("service-account-key-file", &key),
                ("service-account-signing-key-file", &key),
                // Loopback is no address to announce.
                ("endpoint-reconciler-type", "none"),
            ],
        )?;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: real\n\
             clusters: [{{name: real, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: '{certificate}'}}}}]\n\
             users: [{{name: admin, user: {{token: '{token}'}}}}]\n\
             contexts: [{{name: real, context: {{cluster: real, user: admin}}}}]\n"
        );
        api.write("kubeconfig", &text)?;
        // The controllers end at once where the certificate is not there yet.
        api.ready(&kubeconfig)?;
        api.spawn(
            "kube-controller-manager",
            &programs.join("kube-controller-manager"),
            &[
                ("kubeconfig", &kubeconfig),
                ("leader-elect", "false"),
                ("service-account-private-key-file", &key),
                ("root-ca-file", &certificate),
                // No port of its own.
                ("secure-port", "0"),
            ],
        )?;
        Ok(api)
    }

    fn ready(&mut self, kubeconfig: &str) -> Result<(), String> {
        let built = root().join("tests/kubectl/kubectl");
        let kubectl = std::env::var_os("SEALANE_KUBECTL").map(PathBuf::from);
        let kubectl = kubectl.unwrap_or(if built.is_file() { built } else { "kubectl".into() });
        let deadline = Instant::now() + START;
        loop {
            let mut look = Command::new(&kubectl);
            look.args(["--kubeconfig", kubeconfig, "get", "--raw", "/readyz"]).stderr(Stdio::null());
            if said(&mut look).is_ok_and(|text| text == "ok") {
                return Ok(());
            }
            let ended = self.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(10).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(format!("kube-apiserver is not ready:\n{}", tail.join("\n")));
            }
            sleep(Duration::from_millis(200));
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        fs::write(self.folder.join(name), text).map_err(|e| format!("{}: {e}", self.file(name)))
    }

    fn spawn(&mut self, name: &str, program: &Path, flags: &[(&str, &str)]) -> Result<(), String> {
        let log = File::create(self.folder.join(format!("{name}.log"))).map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.children.push(child.map_err(|e| format!("{}: {e}", program.display()))?);
        Ok(())
    }
}

impl Drop for RealApi {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // One that has ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}

/// A program's standard output, trimmed.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}", done.status));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
