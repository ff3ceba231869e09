//! From an acknowledged write until DNS answers, and the kernel leads to, the changed endpoint.
//!
//! The kernel is asked by connecting through the ClusterIP: reading a map back takes longer than what is to be
//! measured and depends on how the rules are laid out, and a connection is what users have. Every address of
//! [`OURS`] is this machine's own, so each change brings an endpoint that was never there before; it says in the
//! connection which one it is. Probes begin with the acknowledgement and follow one another without a pause; a sample ends
//! with the answer of the first that shows the change, and thus holds one probe's own round trip.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{self, AddressFamily, SocketType};
use serde_json::{Value, json};

use crate::Result;
use crate::dns::Resolver;
use crate::https::{Cluster, Connection};
use crate::up::milliseconds;

/// For measurements in networks (RFC 2544), and in nobody's routes.
pub(crate) const OURS: &str = "198.18.0.0/15";
/// Where connections come from.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FIRST: u32 = u32::from_be_bytes([198, 18, 1, 0]);
const PORT: u16 = 9000;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APP: &str = "bench-by-hand";
const BY_HAND: [&str; 2] = ["bench-by-hand-0", "bench-by-hand-1"];
/// A change that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a probe has shown.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// These; a connection shows the one that it reached. Nobody: no endpoint.
    Endpoints(Vec<Ipv4Addr>),
    /// Neither an answer nor a refusal.
    Lost,
}

impl Sight {
    fn shows(&self, address: Ipv4Addr) -> bool {
        matches!(self, Sight::Endpoints(seen) if seen.contains(&address))
    }
}

/// Where a change becomes visible.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Dns,
    Kernel,
}

/// What asks there.
enum Probe {
    Dns(Resolver, String),
    Kernel(SocketAddr),
}

impl Probe {
    fn look(&mut self) -> Result<Sight> {
        match self {
            Probe::Dns(resolver, name) => Ok(resolver.ask(name)?.map_or(Sight::Lost, Sight::Endpoints)),
            Probe::Kernel(address) => connect(*address),
        }
    }

    /// Looks until the endpoint is there: ms from now.
    fn until(&mut self, address: Ipv4Addr) -> Result<f64> {
        let begun = Instant::now();
        loop {
            let sight = self.look()?;
            let passed = begun.elapsed();
            if sight.shows(address) {
                return Ok(milliseconds(passed));
            }
            if passed > PATIENCE {
                return Err(format!("waited 5 s for {address}, still {sight:?}").into());
            }
        }
    }

    /// Looks until the endpoint is gone and another is there. One connection proves nothing where two endpoints take
    /// turns at random; that many in a row leave a chance of 10^-9.
    fn until_gone(&mut self, address: Ipv4Addr) -> Result<()> {
        let enough = match self {
            Probe::Dns(..) => 1,
            Probe::Kernel(_) => 30,
        };
        let begun = Instant::now();
        let mut without = 0;
        while without < enough {
            let gone = matches!(self.look()?, Sight::Endpoints(seen) if !seen.contains(&address));
            without = if gone { without + 1 } else { 0 };
            if begun.elapsed() > PATIENCE {
                return Err(format!("waited 5 s for {address} to go").into());
            }
        }
        Ok(())
    }
}

/// One connection. It comes from an address outside of the cluster, so that the node masquerades it: endpoints that are
/// on the client's own machine would answer past the node otherwise. It ends by a reset: with ten thousand connections
/// a minute to two endpoints, masquerading chooses ports again that TIME_WAIT would still hold on the server's side, and
/// the SYN would be answered by an acknowledgement of the old connection (RFC 9293, 3.6.1) and come again only later.
fn connect(address: SocketAddr) -> Result<Sight> {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, timeout, Some(Duration::from_secs(1)))?;
    }
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    net::bind(&socket, &SocketAddr::from((CLIENT, 0)))?;
    match net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::CONNREFUSED) => return Ok(Sight::Endpoints(Vec::new())),
        Err(_) => return Ok(Sight::Lost),
    }
    let mut stream = TcpStream::from(socket);
    let mut octets = [0; 4];
    Ok(match stream.read_exact(&mut octets) {
        Ok(()) => Sight::Endpoints(vec![octets.into()]),
        Err(_) => Sight::Lost,
    })
}

/// Behind every address of ours: says which one was reached, and waits for the client to reset the connection.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(std::result::Result::ok) {
            if let Ok(SocketAddr::V4(reached)) = stream.local_addr() {
                // The client may be gone; it says so itself. Its reset ends the reading.
                let _ = stream.write_all(&reached.ip().octets());
                let _ = stream.read(&mut [0]);
            }
        }
    });
    Ok(())
}

fn endpoint(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + u32::try_from(number).unwrap_or_default())
}

/// Makes a Service and what asks for its endpoints.
fn service(api: &mut Connection, name: &str, place: Place, selector: Option<&str>) -> Result<Probe> {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "bench", "port": PORT, "targetPort": PORT}]},
    });
    if let Some(app) = selector {
        object["spec"]["selector"] = json!({"app": app});
    }
    if let Place::Dns = place {
        object["spec"]["clusterIP"] = json!("None");
    }
    let made = api.create(SERVICES, &object)?;
    Ok(match place {
        Place::Dns => Probe::Dns(Resolver::new()?, format!("{name}.default.svc.cluster.local")),
        Place::Kernel => {
            let ip: IpAddr = made["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?;
            Probe::Kernel(SocketAddr::new(ip, PORT))
        }
    })
}

/// What one place's measurement gave, ms.
#[derive(Default)]
pub(crate) struct Visible {
    /// From the acknowledged write on.
    pub(crate) change: Vec<f64>,
    /// One probe with nothing to wait for.
    pub(crate) probe: Vec<f64>,
    /// One durable commit at the same time: an empty ConfigMap's creation less the median of its readings, which cost
    /// the same but the commit.
    pub(crate) commit: Vec<f64>,
    /// From the acknowledged status write on until a watch shows the EndpointSlice.
    pub(crate) slice: Vec<f64>,
    /// The same for the Endpoints object.
    pub(crate) endpoints: Vec<f64>,
}

impl Visible {
    /// Each change less the commit at its time.
    pub(crate) fn less_commit(&self) -> Vec<f64> {
        self.change.iter().zip(&self.commit).map(|(change, commit)| change - commit).collect()
    }
}

/// A hand-made EndpointSlice of a Service without selector: each change replaces its only endpoint by a fresh one.
pub(crate) fn after_slice_write(cluster: &Cluster, place: Place, changes: usize) -> Result<Visible> {
    let name = match place {
        Place::Dns => "bench-slice-dns",
        Place::Kernel => "bench-slice-kernel",
    };
    let mut api = cluster.connect()?;
    let mut probe = service(&mut api, name, place, None)?;
    let endpoints = |number| json!([{"addresses": [endpoint(number)], "conditions": {"ready": true}}]);
    api.create(
        SLICES,
        &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints(0),
            "ports": [{"name": "bench", "port": PORT, "protocol": "TCP"}],
        }),
    )?;
    probe.until(endpoint(0))?;
    let mut visible = Visible::default();
    for number in 1..=changes {
        visible.probe.push(probe.until(endpoint(number - 1))?);
        api.merge(&format!("{SLICES}/{name}"), &json!({"endpoints": endpoints(number)}))?;
        visible.change.push(probe.until(endpoint(number))?);
    }
    api.delete(&format!("{SLICES}/{name}"))?;
    api.delete(&format!("{SERVICES}/{name}"))?;
    Ok(visible)
}

/// A node that nobody runs, and two Pods on it whose status is written by hand. Its Lease was renewed in the future:
/// after 40 s without a sign of life the node controller would write the Pods' readiness itself.
pub(crate) fn make_pods(cluster: &Cluster) -> Result<()> {
    let mut api = cluster.connect()?;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "bench-node"},
        "spec": {"taints": [{"key": "bench", "effect": "NoSchedule"}]},
    });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "bench-node"},
        "spec": {"holderIdentity": "bench-node", "renewTime": "2100-01-01T00:00:00.000000Z"},
    });
    api.create("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &lease)?;
    api.create("/api/v1/nodes", &node)?;
    for name in BY_HAND {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": APP}},
            "spec": {
                "nodeName": "bench-node", "containers": [{"name": "none", "image": "none"}],
                "tolerations": [{"operator": "Exists"}],
            },
        });
        api.create(PODS, &pod)?;
    }
    Ok(())
}

/// One of the two Pods is ready; the other becomes ready, which is timed, and then the first unready, which is not. So
/// the Service always has an endpoint: the kernel limits its refusals to one a second and client, and a probe would wait
/// for one that never comes. Between the acknowledgement and the sight lies one durable commit, that of the
/// EndpointSlice. Another client's commit begins with the acknowledgement too: a disk that stalls holds up both.
pub(crate) fn after_status_write(cluster: &Cluster, place: Place, changes: usize) -> Result<Visible> {
    let (name, first) = match place {
        Place::Dns => ("bench-status-dns", 20_000),
        Place::Kernel => ("bench-status-kernel", 20_002),
    };
    let addresses = [endpoint(first), endpoint(first + 1)];
    let mut api = cluster.connect()?;
    let slices = cluster.connect()?.watch(SLICES)?.follow();
    let objects = cluster.connect()?.watch(ENDPOINTS)?.follow();
    let mut committer = Committer::start(cluster.connect()?, name.to_owned());
    write_status(&mut api, 0, addresses[0], true)?;
    write_status(&mut api, 1, addresses[1], false)?;
    let mut probe = service(&mut api, name, place, Some(APP))?;
    probe.until(addresses[0])?;
    let mut visible = Visible::default();
    let mut reads = Vec::with_capacity(changes);
    for number in 0..changes {
        let (old, new) = (number % 2, (number + 1) % 2);
        write_status(&mut api, new, addresses[new], true)?;
        let acknowledged = Instant::now();
        committer.begin()?;
        visible.change.push(probe.until(addresses[new])?);
        for (events, times) in [(&slices, &mut visible.slice), (&objects, &mut visible.endpoints)] {
            times.push(milliseconds(
                first_with(events, addresses[new])?.saturating_duration_since(acknowledged),
            ));
        }
        let (create, read) = committer.end()?;
        visible.commit.push(create);
        reads.push(read);
        write_status(&mut api, old, addresses[old], false)?;
        probe.until_gone(addresses[old])?;
        for events in [&slices, &objects] {
            first_without(events, addresses[old])?;
        }
    }
    reads.sort_by(f64::total_cmp);
    let read = reads.get(reads.len() / 2).copied().unwrap_or_default();
    visible.commit.iter_mut().for_each(|create| *create -= read);
    api.delete(&format!("{SERVICES}/{name}"))?;
    Ok(visible)
}

/// Makes durable commits beside what is measured.
struct Committer {
    begin: Sender<()>,
    end: Receiver<std::result::Result<(f64, f64), String>>,
}

impl Committer {
    fn start(mut api: Connection, name: String) -> Committer {
        let (begin, begun) = channel();
        let (ended, end) = channel();
        thread::spawn(move || {
            for (number, ()) in begun.into_iter().enumerate() {
                let times = create_and_read(&mut api, &format!("{name}-{number}"));
                if ended.send(times.map_err(|e| e.to_string())).is_err() {
                    return;
                }
            }
        });
        Committer { begin, end }
    }

    fn begin(&mut self) -> Result<()> {
        Ok(self.begin.send(())?)
    }

    /// An empty ConfigMap's creation and its reading, ms.
    fn end(&mut self) -> Result<(f64, f64)> {
        Ok(self.end.recv()??)
    }
}

/// When the first object came that has the address among its ready ones.
fn first_with(events: &Receiver<(Instant, Value)>, address: Ipv4Addr) -> Result<Instant> {
    first(events, |object| has_ready(object, address))
}

/// When the first object came that has it no more.
fn first_without(events: &Receiver<(Instant, Value)>, address: Ipv4Addr) -> Result<Instant> {
    first(events, |object| !has_ready(object, address))
}

fn first(events: &Receiver<(Instant, Value)>, wanted: impl Fn(&Value) -> bool) -> Result<Instant> {
    loop {
        let (when, event) = events.recv_timeout(PATIENCE).map_err(|e| format!("waited for an event: {e}"))?;
        let object = &event["object"];
        if object["metadata"].to_string().contains("bench-status-") && wanted(object) {
            return Ok(when);
        }
    }
}

/// Of an EndpointSlice or an Endpoints object.
fn has_ready(object: &Value, address: Ipv4Addr) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let in_slice = list(&object["endpoints"])
        .iter()
        .any(|e| e["conditions"]["ready"] == true && list(&e["addresses"]).contains(&json!(address)));
    let in_subsets = list(&object["subsets"])
        .iter()
        .any(|s| list(&s["addresses"]).iter().any(|a| a["ip"] == json!(address)));
    in_slice || in_subsets
}

fn write_status(api: &mut Connection, pod: usize, address: Ipv4Addr, ready: bool) -> Result<Value> {
    let status = if ready { "True" } else { "False" };
    let patch = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": status}, {"type": "ContainersReady", "status": status}],
    }});
    api.merge(&format!("{PODS}/{}/status", BY_HAND[pod]), &patch)
}

/// How long an empty ConfigMap's creation takes, and its reading, ms.
fn create_and_read(api: &mut Connection, name: &str) -> Result<(f64, f64)> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let begun = Instant::now();
    api.create(CONFIG_MAPS, &object)?;
    let created = Instant::now();
    api.get(&format!("{CONFIG_MAPS}/{name}"))?;
    Ok((milliseconds(created - begun), milliseconds(created.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_addresses_are_found_in_both_kinds() {
        let address = endpoint(0);
        let slice = |ready| json!({"endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]});
        assert!(has_ready(&slice(true), address) && !has_ready(&slice(false), address));
        let object = |field: &str| json!({"subsets": [{field: [{"ip": address}]}]});
        assert!(
            has_ready(&object("addresses"), address) && !has_ready(&object("notReadyAddresses"), address)
        );
    }

    #[test]
    fn a_commit_is_taken_from_the_change_of_its_time() {
        let visible = Visible { change: vec![7.0, 90.0], commit: vec![2.0, 88.0], ..Visible::default() };
        assert_eq!(visible.less_commit(), [5.0, 2.0]);
    }

    #[test]
    fn each_change_has_an_address_of_its_own_in_the_range() {
        assert_eq!(endpoint(0), Ipv4Addr::new(198, 18, 1, 0));
        assert_eq!(endpoint(256), Ipv4Addr::new(198, 18, 2, 0));
        assert_eq!(endpoint(20_002).octets()[0..2], [198, 18]);
    }
}
