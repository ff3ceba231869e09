//! From an acknowledged write until DNS answers, and the kernel leads to, the changed endpoint.
//!
//! The kernel is asked by connecting through the ClusterIP: reading a map back takes longer than what is to be
//! measured and depends on how the rules are laid out, and a connection is what users have. Every address of
//! [`OURS`] is this machine's own, so each change brings an endpoint that was never there before; it says in the
//! connection which one it is. Probes begin with the acknowledgement and follow one another without a pause; a sample ends
//! with the answer of the first that shows the change, and thus holds one probe's own round trip.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::dns::Resolver;
use crate::https::{Cluster, Connection};
use crate::up::milliseconds;

/// For measurements in networks (RFC 2544), and in nobody's routes.
pub(crate) const OURS: &str = "198.18.0.0/15";
const FIRST: u32 = u32::from_be_bytes([198, 18, 1, 0]);
const PORT: u16 = 9000;
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POD: &str = "bench-by-hand";
/// A change that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a probe has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Endpoint(Ipv4Addr),
    NoEndpoint,
    /// Neither an answer nor a refusal.
    Lost,
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
            Probe::Dns(resolver, name) => Ok(match resolver.ask(name)?.as_deref() {
                None => Sight::Lost,
                Some([]) => Sight::NoEndpoint,
                Some([first, ..]) => Sight::Endpoint(*first),
            }),
            Probe::Kernel(address) => connect(*address),
        }
    }

    /// Looks until the change is there: ms from now.
    fn until(&mut self, wanted: &Sight) -> Result<f64> {
        let begun = Instant::now();
        loop {
            let sight = self.look()?;
            let passed = begun.elapsed();
            if sight == *wanted {
                return Ok(milliseconds(passed));
            }
            if passed > PATIENCE {
                return Err(format!("waited 5 s for {wanted:?}, still {sight:?}").into());
            }
        }
    }
}

fn connect(address: SocketAddr) -> Result<Sight> {
    let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
        Ok(stream) => stream,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(Sight::NoEndpoint),
        Err(_) => return Ok(Sight::Lost),
    };
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut octets = [0; 4];
    Ok(match stream.read_exact(&mut octets) {
        Ok(()) => Sight::Endpoint(octets.into()),
        Err(_) => Sight::Lost,
    })
}

/// Behind every address of ours: says which one was reached. It hangs up first, so that the waiting state is on its
/// side and clients never run out of ports.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(std::result::Result::ok) {
            if let Ok(SocketAddr::V4(reached)) = stream.local_addr() {
                // The client may be gone; it says so itself.
                let _ = stream.write_all(&reached.ip().octets());
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
    /// One durable commit: an empty ConfigMap's creation less a read.
    pub(crate) commit: Vec<f64>,
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
    probe.until(&Sight::Endpoint(endpoint(0)))?;
    let mut visible = Visible::default();
    for number in 1..=changes {
        visible.probe.push(probe.until(&Sight::Endpoint(endpoint(number - 1)))?);
        api.merge(&format!("{SLICES}/{name}"), &json!({"endpoints": endpoints(number)}))?;
        visible.change.push(probe.until(&Sight::Endpoint(endpoint(number)))?);
    }
    api.delete(&format!("{SLICES}/{name}"))?;
    api.delete(&format!("{SERVICES}/{name}"))?;
    Ok(visible)
}

/// A node that nobody runs, and a Pod on it whose status is written by hand.
pub(crate) fn make_pod(cluster: &Cluster) -> Result<()> {
    let mut api = cluster.connect()?;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "bench-node"},
        "spec": {"taints": [{"key": "bench", "effect": "NoSchedule"}]},
    });
    api.create("/api/v1/nodes", &node)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "labels": {"app": POD}},
        "spec": {"nodeName": "bench-node", "containers": [{"name": "none", "image": "none"}]},
    });
    api.create(PODS, &pod)?;
    Ok(())
}

/// The Pod's readiness is switched on and off; its Service's endpoint comes and goes. Between the acknowledgement and the
/// sight lies one durable commit, that of the EndpointSlice.
pub(crate) fn after_status_write(cluster: &Cluster, place: Place, changes: usize) -> Result<Visible> {
    let (name, address) = match place {
        Place::Dns => ("bench-status-dns", endpoint(20_001)),
        Place::Kernel => ("bench-status-kernel", endpoint(20_002)),
    };
    let mut api = cluster.connect()?;
    write_status(&mut api, address, false)?;
    let mut probe = service(&mut api, name, place, Some(POD))?;
    probe.until(&Sight::NoEndpoint)?;
    // Once around untimed: the slice is made now, and only changed from here on.
    for ready in [true, false] {
        write_status(&mut api, address, ready)?;
        probe.until(&sight_of(address, ready))?;
    }
    let mut visible = Visible::default();
    for number in 0..changes {
        let ready = number % 2 == 0;
        visible.commit.push(durable_commit(&mut api, &format!("{name}-{number}"))?);
        write_status(&mut api, address, ready)?;
        visible.change.push(probe.until(&sight_of(address, ready))?);
    }
    api.delete(&format!("{SERVICES}/{name}"))?;
    Ok(visible)
}

fn sight_of(address: Ipv4Addr, ready: bool) -> Sight {
    if ready { Sight::Endpoint(address) } else { Sight::NoEndpoint }
}

fn write_status(api: &mut Connection, address: Ipv4Addr, ready: bool) -> Result<Value> {
    let status = if ready { "True" } else { "False" };
    let patch = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": status}, {"type": "ContainersReady", "status": status}],
    }});
    api.merge(&format!("{PODS}/{POD}/status"), &patch)
}

/// How long the creation of an empty ConfigMap takes longer than its reading, which costs the same but the commit.
fn durable_commit(api: &mut Connection, name: &str) -> Result<f64> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let begun = Instant::now();
    api.create(CONFIG_MAPS, &object)?;
    let created = Instant::now();
    api.get(&format!("{CONFIG_MAPS}/{name}"))?;
    let read = created.elapsed();
    Ok(milliseconds((created - begun).saturating_sub(read)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_an_address_of_its_own_in_the_range() {
        assert_eq!(endpoint(0), Ipv4Addr::new(198, 18, 1, 0));
        assert_eq!(endpoint(256), Ipv4Addr::new(198, 18, 2, 0));
        assert_eq!(endpoint(20_002).octets()[0..2], [198, 18]);
    }
}
