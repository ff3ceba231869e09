//! The API server restarts under `sealane dns`: what the lists that follow take, and that names are answered all the
//! while.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::cluster;
use super::server::{Asked, Client, Program, Server};
use super::{CLUSTER, LARGE};
use crate::Result;
use crate::report::{Figure, Judged};
use crate::up::Up;

/// After a start, until what starting took is given back.
const SETTLED: Duration = Duration::from_secs(4);
/// How long the API is away.
const AWAY: Duration = Duration::from_secs(1);
/// From then on: watches are tried again within seconds, lists take less than one.
const LISTED: Duration = Duration::from_secs(10);
/// Between two questions.
const LOOK: Duration = Duration::from_millis(20);

/// In the bench's own namespaces.
pub(crate) fn measure(binary: &Path, short: bool) -> Result<Vec<Figure>> {
    let (size, rounds) = if short { (CLUSTER, 1) } else { (LARGE, 5) };
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let data = folder.join("data");
    let start = || Up::without_node(binary, &data, &folder.join("up.log"));
    let mut up = start()?;
    let (_, mut api) = up.api_answers()?;
    cluster::create(&api, size)?;
    let name = cluster::service(size.services - 1);
    let server = Server::start(Program::Sealane, binary, folder, &data.join("kubeconfig"), &name)?;
    let mut client = Client::new(Program::Sealane)?;
    let mut answered_for = |time: Duration| -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            match client.ask(&name) {
                Some((0, answers, _)) if answers > 0 => std::thread::sleep(LOOK),
                other => return Err(format!("{name} is answered with {other:?}").into()),
            }
        }
        Ok(())
    };
    answered_for(SETTLED)?;
    let [mut steady, mut peak, mut ratio, mut spent] = [const { Vec::new() }; 4];
    for round in 0..rounds {
        // The restarted server's memory of changes begins after this one: watches cannot be resumed.
        let map = json!({ "metadata": { "name": format!("round-{round}") } });
        api.connect()?.create("/api/v1/namespaces/default/configmaps", &map)?;
        let (before, cpu) = (server.resident()?, server.cpu()?);
        server.forget_peak()?;
        up.stop()?;
        answered_for(AWAY)?;
        up = start()?;
        (_, api) = up.api_answers()?;
        answered_for(LISTED)?;
        let highest = server.peak()?;
        steady.push(before);
        peak.push(highest);
        ratio.push(highest / before);
        spent.push((server.cpu()? - cpu) / 1e3);
    }
    drop(server);
    up.stop()?;
    let services = size.services;
    let named = |what: &str, unit, values| Figure::new(format!("{services} Services: {what}"), unit, values);
    // A small cluster is little beside the program, of which reconnecting needs other pages than answering.
    let ratio = named("highest / before", "x", ratio);
    Ok(vec![
        named("RSS before the API server restarts (MB)", "MB", steady),
        named("highest RSS until all is listed again (MB)", "MB", peak),
        if short { ratio } else { ratio.bar(1.2, Judged::Median) },
        // It shows that there were lists.
        named("CPU from restart to listed (ms)", "ms", spent),
    ])
}
