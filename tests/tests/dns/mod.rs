//! Tables of questions and answers, and what holds them against a server.

pub mod codec;
mod played;
pub mod server;
pub mod table;

use std::path::Path;

use sealane_tests::{Start, Up, eventually, eventually_within};

use server::{Program, Server, ask_tcp, ask_udp};
use table::{Scenario, Table};

/// Questions on one connection.
const PIPELINE: usize = 50;
/// From exec to the first right answer: CoreDNS waits 5 s for the API, and machines are busy.
const START: std::time::Duration = std::time::Duration::from_secs(30);

/// The folder of the tables.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns"))
}

/// Every row of a table, of every server. With `SEALANE_DNS_ONLY=TEXT` those scenarios alone whose title has it.
#[track_caller]
pub fn holds(file: &str) {
    let table = Table::read(&folder().join(file));
    let start = Start::new().arg("--no-node");
    // What the servers call themselves, where the cluster says nothing of it (plugin/kubernetes, NS).
    start.machine.add_address([10, 255, 0, 53].into());
    let up = (!table.objects.is_empty()).then(|| cluster(&start, &table));
    let played = (!table.played.is_empty()).then(|| played::serve(&start, &table.played));
    let kubeconfig = up.as_ref().map(Up::kubeconfig).or(played).unwrap_or_default();
    let only = std::env::var("SEALANE_DNS_ONLY").unwrap_or_default();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for scenario in table.scenarios.iter().filter(|s| s.title.contains(&only)) {
        for program in Program::ALL {
            let said = ask_all(&start, &kubeconfig, program, scenario);
            let about = |text: String| format!("{}, [{}]: {text}", program.name(), scenario.title);
            wrong.extend(said.into_iter().map(about));
            asked += scenario.rows.len();
        }
    }
    assert!(asked > 0, "no scenario of {} is called {only}", table.file);
    assert!(wrong.is_empty(), "{} of {asked} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The API with the table's objects in it.
#[track_caller]
fn cluster(start: &Start, table: &Table) -> Up {
    let up = start.up();
    eventually("the table's objects", || {
        let done = up.apply(&table.objects);
        if done.status.success() { Ok(()) } else { Err(done.to_string()) }
    });
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
        up.ok(&["-n", namespace, "patch", "pod", pod, "--subresource=status", "--type=merge", "-p", &patch]);
    }
    up
}

/// What differs.
fn ask_all(start: &Start, kubeconfig: &Path, program: Program, scenario: &Scenario) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = kubeconfig.display().to_string();
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
    start.machine.within(|| {
        let first = &scenario.rows[0];
        let first_answer = || {
            if first.udp {
                ask_udp(&first.query)
            } else {
                ask_tcp(&[&first.query]).map(|mut all| all.remove(0))
            }
        };
        let deadline = std::time::Instant::now() + START;
        loop {
            let said = match first_answer() {
                Ok(reply) => first.wrong(program.name(), &reply),
                Err(e) => Some(format!("{}: {e}", first.head)),
            };
            match said {
                None => break,
                Some(said) if first.open() && said.contains(" -> ") => break,
                Some(said) if std::time::Instant::now() > deadline || !server.runs() => {
                    return vec![format!("not after {START:?}: {said}\n{}", server.log())];
                }
                Some(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        let mut wrong = Vec::new();
        for row in scenario.rows.iter().filter(|row| row.udp) {
            for time in 0..if row.once { 1 } else { 2 } {
                let said = match ask_udp(&row.query) {
                    Ok(reply) => row.wrong(program.name(), &reply),
                    Err(e) => Some(e),
                };
                let again = if time == 0 { "" } else { " again" };
                wrong.extend(said.map(|said| format!("{}{again}\n{said}", row.head)));
            }
        }
        let rows: Vec<_> = scenario.rows.iter().filter(|row| row.tcp).collect();
        for rows in rows.chunks(PIPELINE) {
            match ask_tcp(&rows.iter().map(|row| &row.query).collect::<Vec<_>>()) {
                Ok(replies) => {
                    for (row, reply) in rows.iter().zip(replies) {
                        let said = row.wrong(program.name(), &reply);
                        wrong.extend(said.map(|w| format!("{} over TCP\n{w}", row.head)));
                    }
                }
                Err(e) => wrong.push(format!("TCP: {e}")),
            }
        }
        if !wrong.is_empty() {
            wrong.push(server.log());
        }
        wrong
    })
}
