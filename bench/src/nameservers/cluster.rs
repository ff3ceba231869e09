//! The cluster that the DNS figures are measured on, and the questions about it: as objects for the API, as a zone for
//! a server that knows zones alone, as lines for dnsperf.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::Result;
use crate::https::Cluster as Api;

/// Namespaces, which the Services share evenly.
const NAMESPACES: usize = 10;
/// Endpoints of one Service.
const ENDPOINTS: usize = 10;
/// Lines for dnsperf; it begins again at their end.
const QUESTIONS: usize = 20_000;

/// So many Services, of which every so-manieth is headless; those have the endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) services: usize,
    pub(crate) headless_one_in: usize,
    /// The others have endpoints, too.
    pub(crate) all_have_endpoints: bool,
}

impl Size {
    fn headless(self, at: usize) -> bool {
        at.is_multiple_of(self.headless_one_in)
    }

    fn has_endpoints(self, at: usize) -> bool {
        self.all_have_endpoints || self.headless(at)
    }
}

fn namespace(at: usize) -> String {
    format!("team-{}", at % NAMESPACES)
}

/// A Service's name below the zone, without last dot.
pub(crate) fn service(at: usize) -> String {
    format!("service-{at}.{}.svc.cluster.local", namespace(at))
}

fn address(network: [u8; 2], number: usize) -> Ipv4Addr {
    let number = u32::try_from(number + 1).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from_be_bytes([network[0], network[1], 0, 0]) + number)
}

fn cluster_ip(at: usize) -> Ipv4Addr {
    // 10.97: what the cluster gives itself lies before.
    address([10, 97], at)
}

fn endpoint(at: usize, number: usize) -> Ipv4Addr {
    address([10, 128], at * ENDPOINTS + number)
}

fn endpoint_name(at: usize, number: usize) -> String {
    format!("{}.{}", endpoint(at, number).to_string().replace('.', "-"), service(at))
}

/// One object, and where it is created.
pub(crate) struct Object {
    pub(crate) plural: &'static str,
    path: String,
    pub(crate) value: Value,
}

fn metadata(at: usize) -> Value {
    json!({ "name": format!("service-{at}"), "namespace": namespace(at) })
}

/// A Service's endpoints.
pub(crate) fn slice(size: Size, at: usize) -> Value {
    let mut metadata = metadata(at);
    metadata["labels"] = json!({ "kubernetes.io/service-name": metadata["name"] });
    let numbers = if size.has_endpoints(at) { 0..ENDPOINTS } else { 0..0 };
    let endpoints: Vec<Value> =
        numbers.map(|n| json!({ "addresses": [endpoint(at, n).to_string()] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// All of the cluster.
pub(crate) fn objects(size: Size) -> impl Iterator<Item = Object> {
    let namespaces = (0..NAMESPACES).map(|at| Object {
        plural: "namespaces",
        path: "/api/v1/namespaces".to_owned(),
        value: json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace(at) } }),
    });
    let services = (0..size.services).flat_map(move |at| {
        let ip = if size.headless(at) { "None".to_owned() } else { cluster_ip(at).to_string() };
        let service = Object {
            plural: "services",
            path: format!("/api/v1/namespaces/{}/services", namespace(at)),
            value: json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata(at),
                "spec": { "clusterIP": ip, "ports": [{ "name": "http", "port": 80 }] },
            }),
        };
        let slice = size.has_endpoints(at).then(|| Object {
            plural: "endpointslices",
            path: format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", namespace(at)),
            value: slice(size, at),
        });
        [Some(service), slice].into_iter().flatten()
    });
    namespaces.chain(services)
}

/// Creates the objects.
pub(crate) fn create(api: &Api, size: Size) -> Result<()> {
    let mut connection = api.connect()?;
    for Object { path, value, .. } in objects(size) {
        connection.create(&path, &value)?;
    }
    Ok(())
}

/// The same as a master file (RFC 1035 section 5).
pub(crate) fn zone(size: Size) -> String {
    let mut text = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n\
         @ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.1\n",
    );
    let mut line = |name: &str, data: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}. {data}");
    };
    for at in 0..size.services {
        let (name, headless) = (service(at), size.headless(at));
        let srv = format!("_http._tcp.{name}");
        if !headless {
            line(&name, format!("A {}", cluster_ip(at)));
            line(&srv, format!("SRV 0 100 80 {name}."));
        }
        for number in (0..ENDPOINTS).filter(|_| size.has_endpoints(at)) {
            let host = endpoint_name(at, number);
            line(&host, format!("A {}", endpoint(at, number)));
            if headless {
                line(&name, format!("A {}", endpoint(at, number)));
                line(&srv, format!("SRV 0 10 80 {host}."));
            }
        }
    }
    text
}

/// dnsperf's lines: 60 % A, 10 % AAAA, 15 % SRV, 5 % names of endpoints, 10 % of names that are not there; the same
/// ones each time.
pub(crate) fn questions(size: Size) -> String {
    let mut text = String::new();
    // Knuth's generator (TAOCP 3.3.4): no measurement hangs on how good it is.
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % bound
    };
    for _ in 0..QUESTIONS {
        let (kind, at, number) = (below(100), below(size.services), below(ENDPOINTS));
        let name = service(at);
        let question = match kind {
            0..60 => format!("{name} A"),
            60..70 => format!("{name} AAAA"),
            70..85 => format!("_http._tcp.{name} SRV"),
            85..90 => {
                let with = if size.has_endpoints(at) { at } else { at - at % size.headless_one_in };
                format!("{} A", endpoint_name(with, number))
            }
            _ => format!("no-{name} A"),
        };
        text += &question;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { services: 1000, headless_one_in: 5, all_have_endpoints: false };

    #[test]
    fn every_question_but_the_tenth_has_a_name_in_the_zone() {
        let zone = zone(SIZE);
        let names: std::collections::HashSet<&str> =
            zone.lines().filter_map(|l| l.split(". ").next()).collect();
        let (mut there, mut counts) = (0, [0; 3]);
        for line in questions(SIZE).lines() {
            let (name, kind) = line.split_once(' ').unwrap_or_default();
            there += usize::from(names.contains(name));
            counts[["A", "AAAA", "SRV"].iter().position(|k| *k == kind).unwrap_or(0)] += 1;
        }
        let near = |count: usize, percent: usize| count.abs_diff(QUESTIONS * percent / 100) < QUESTIONS / 100;
        assert!(
            near(there, 90) && near(counts[0], 75) && near(counts[1], 10) && near(counts[2], 15),
            "{there} {counts:?}"
        );
    }

    #[test]
    fn a_tenth_of_the_lines_is_of_one_headless_service() {
        let zone = zone(Size { services: 1, headless_one_in: 1, all_have_endpoints: false });
        assert_eq!(zone.lines().filter(|l| l.contains(" A 10.128.")).count(), 2 * ENDPOINTS);
        assert_eq!(zone.lines().filter(|l| l.contains(" SRV ")).count(), ENDPOINTS);
    }
}
