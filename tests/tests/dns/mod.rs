//! Tables of questions and answers, and what holds them against a server.

pub mod codec;
pub mod given;
mod played;
pub mod server;
pub mod table;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sealane_tests::{Done, Start, Up, eventually, eventually_within, run};

use server::{Program, SERVER, Server, ask_tcp, ask_udp};
use table::{Scenario, Table};

/// Questions on one connection.
const PIPELINE: usize = 50;
/// From exec to the first right answer: CoreDNS waits 5 s for the API, and machines are busy.
const START: Duration = Duration::from_secs(30);
/// What the servers call themselves, where the cluster says nothing of it (plugin/kubernetes, NS).
const OWN: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 53);

/// The folder of the tables.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns"))
}

/// Every row of a table, of every server. With `SEALANE_DNS_ONLY=TEXT` those scenarios alone whose title has it; see
/// [`given`] for servers and clusters of others.
#[track_caller]
pub fn holds(file: &str) {
    let running = given::server();
    let mut table = Table::read(&folder().join(file));
    let only = std::env::var("SEALANE_DNS_ONLY").ok();
    let start = Start::new().arg("--no-node");
    start.machine.add_address(OWN);
    let (mut wrong, mut asked) = (Vec::new(), 0);
    let mut note = |program: Program, scenario: &Scenario, said: Vec<String>| {
        let about = |text: String| format!("{}, [{}]: {text}", program.name(), scenario.title);
        wrong.extend(said.into_iter().map(about));
        asked += scenario.rows.len();
    };
    if let Some((address, program)) = running {
        for scenario in &mut table.scenarios {
            scenario.rows.retain(|row| !row.about_the_server());
        }
        let first = table.scenarios.first().map(|s| s.corefile.as_str());
        let held = |s: &&Scenario| match &only {
            Some(only) => s.title.contains(only),
            // Those about the cluster; the rest of the tables needs Corefiles of its own.
            None => !table.objects.is_empty() && Some(s.corefile.as_str()) == first,
        };
        let scenarios: Vec<&Scenario> = table.scenarios.iter().filter(held).collect();
        let _cluster = (!scenarios.is_empty()).then(|| Cluster::given(&table));
        for scenario in &scenarios {
            // It learns of the objects while it is asked.
            let deadline = Instant::now() + START;
            let mut said = ask_rows(address, program, scenario, &mut None);
            while !said.is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(100));
                said = ask_rows(address, program, scenario, &mut None);
            }
            note(program, scenario, said);
        }
        println!("{}: {asked} rows asked of {address}", table.file);
    } else {
        let only = only.unwrap_or_default();
        let cluster = (!table.objects.is_empty()).then(|| Cluster::of(&start, &table));
        let played =
            (!table.played.is_empty()).then(|| Cluster::Played(played::serve(&start, &table.played)));
        let cluster = cluster.or(played);
        for scenario in table.scenarios.iter().filter(|s| s.title.contains(&only)) {
            for program in Program::ALL {
                note(program, scenario, ask_all(&start, cluster.as_ref(), program, scenario));
            }
        }
        println!("{}: {asked} rows asked of Sealane and CoreDNS", table.file);
        assert!(asked > 0, "no scenario of {} is called {only}", table.file);
    }
    assert!(wrong.is_empty(), "{} of {asked} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The API in which a table's objects are.
enum Cluster {
    Own(Up),
    Given(given::Cluster, PathBuf),
    /// It holds what it holds: nothing can be asked or written.
    Played(PathBuf),
}

impl Cluster {
    /// The one that a running server has, if the environment names it.
    #[track_caller]
    fn given(table: &Table) -> Option<Cluster> {
        let cluster = Cluster::Given(given::Cluster::named(&table.objects)?, PathBuf::new());
        cluster.statuses(table);
        Some(cluster)
    }

    /// One of the test's own, unless the environment names another.
    #[track_caller]
    fn of(start: &Start, table: &Table) -> Cluster {
        let cluster = match given::Cluster::named(&table.objects) {
            Some(given) => {
                let kubeconfig = given.reached_from(&start.machine);
                Cluster::Given(given, kubeconfig)
            }
            None => {
                let up = start.up();
                eventually("the table's objects", || {
                    let done = up.apply(&table.objects);
                    if done.status.success() { Ok(()) } else { Err(done.to_string()) }
                });
                Cluster::Own(up)
            }
        };
        cluster.statuses(table);
        cluster
    }

    /// As the test's machine sees it.
    fn kubeconfig(&self) -> PathBuf {
        match self {
            Cluster::Own(up) => up.kubeconfig(),
            Cluster::Given(_, kubeconfig) | Cluster::Played(kubeconfig) => kubeconfig.clone(),
        }
    }

    #[track_caller]
    fn kubectl(&self, args: &[&str]) -> Done {
        match self {
            Cluster::Own(up) => run(&mut up.kubectl_command(args), b""),
            Cluster::Given(given, _) => given.kubectl(args, ""),
            Cluster::Played(_) => panic!("a played API takes no {args:?}"),
        }
    }

    /// What kubelets would write.
    #[track_caller]
    fn statuses(&self, table: &Table) {
        for (namespace, pod, addresses) in &table.statuses {
            let unready = addresses.first().is_some_and(|word| word == "unready");
            let addresses = &addresses[usize::from(unready)..];
            let ips: Vec<serde_json::Value> =
                addresses.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
            let status = serde_json::json!({ "status": {
                "phase": "Running", "podIP": addresses[0], "podIPs": ips,
                "conditions": [{ "type": "Ready", "status": if unready { "False" } else { "True" } }],
            }});
            let patch = status.to_string();
            let args =
                ["-n", namespace, "patch", "pod", pod, "--subresource=status", "--type=merge", "-p", &patch];
            self.kubectl(&args).ok();
        }
    }
}

/// What differs.
fn ask_all(start: &Start, cluster: Option<&Cluster>, program: Program, scenario: &Scenario) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = cluster.map(Cluster::kubeconfig).unwrap_or_default().display().to_string();
    for (name, content) in &scenario.files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let corefile = dir.path().join("Corefile");
    let text = program.corefile(&scenario.corefile, &kubeconfig, &dir.path().display().to_string());
    std::fs::write(&corefile, text).unwrap();
    let mut command = program.command(&start.machine, &corefile);
    command.env("KUBECONFIG", &kubeconfig).current_dir(dir.path());
    let mut server = Server::start(command, dir.path().join("log"));
    if scenario.lacks.as_deref() == Some(program.name()) {
        // Where it is refused no longer, the rows are to be asked.
        return eventually_within(START, "a refusal", || match server.runs() {
            true => Err(format!("[{}] runs: remove its line `lacks`\n{}", scenario.title, server.log())),
            false => Ok(Vec::new()),
        });
    }
    let mut server = Some(server);
    start.machine.within(|| ask_rows(SERVER, program, scenario, &mut server))
}

/// What differs; of a server that the test has started, with what it said.
fn ask_rows(
    to: SocketAddr,
    program: Program,
    scenario: &Scenario,
    server: &mut Option<Server>,
) -> Vec<String> {
    let name = program.name();
    let first = &scenario.rows[0];
    let first_answer = || {
        if first.udp {
            ask_udp(to, &first.query)
        } else {
            ask_tcp(to, &[&first.query]).map(|mut all| all.remove(0))
        }
    };
    let deadline = Instant::now() + START;
    loop {
        let said = match first_answer() {
            Ok(reply) => first.wrong(name, &reply),
            Err(e) => Some(format!("{}: {e}", first.head)),
        };
        match said {
            None => break,
            Some(said) if first.open() && said.contains(" -> ") => break,
            Some(said) if Instant::now() > deadline || server.as_mut().is_some_and(|s| !s.runs()) => {
                return vec![format!("not after {START:?}: {said}\n{}", log(server))];
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    let mut wrong = Vec::new();
    for row in scenario.rows.iter().filter(|row| row.udp) {
        for time in 0..if row.once { 1 } else { 2 } {
            let said = match ask_udp(to, &row.query) {
                Ok(reply) => row.wrong(name, &reply),
                Err(e) => Some(e),
            };
            let again = if time == 0 { "" } else { " again" };
            wrong.extend(said.map(|said| format!("{}{again}\n{said}", row.head)));
        }
    }
    let rows: Vec<_> = scenario.rows.iter().filter(|row| row.tcp).collect();
    for rows in rows.chunks(PIPELINE) {
        match ask_tcp(to, &rows.iter().map(|row| &row.query).collect::<Vec<_>>()) {
            Ok(replies) => {
                for (row, reply) in rows.iter().zip(replies) {
                    let said = row.wrong(name, &reply);
                    wrong.extend(said.map(|w| format!("{} over TCP\n{w}", row.head)));
                }
            }
            Err(e) => wrong.push(format!("TCP: {e}")),
        }
    }
    if !wrong.is_empty() {
        wrong.push(log(server));
    }
    wrong
}

fn log(server: &mut Option<Server>) -> String {
    server.as_mut().map(Server::log).unwrap_or_default()
}
