//! What Sealane's annotations on a Service do to real connections: `sealane proxy` on a machine, endpoints behind it, a
//! client on a third, and servers that say which they are.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use api::Api;
use sealane_tests::{Machine, eventually, request, run, sealane};
use serde_json::{Value, json};

const VIP: &str = "10.96.0.20:80";
const PATIENCE: Duration = Duration::from_secs(5);

/// An endpoint's address.
fn endpoint(number: usize) -> SocketAddr {
    ([10, 244, 0, u8::try_from(2 + number).unwrap()], 8080).into()
}

/// Endpoints are addresses of one machine, each with a server of its own, or none.
struct Place {
    node: Machine,
    pods: Machine,
    client: Machine,
    api: Api,
    folder: tempfile::TempDir,
    proxy: Option<Child>,
}

impl Place {
    /// With so many endpoints, the first `serving` of which have servers.
    fn new(count: usize, serving: usize) -> Place {
        let node = Machine::new();
        let api = Api::new(&node);
        let folder = tempfile::tempdir().unwrap();
        let mut place =
            Place { node, pods: Machine::new(), client: Machine::new(), api, folder, proxy: None };
        run(place.node.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]), b"").ok();
        for (link, other, range) in [("pods", &place.pods, "10.244.0"), ("client", &place.client, "10.244.1")]
        {
            let ip = |on: &Machine, words: &str| {
                run(on.command("ip").args(words.split_whitespace()), b"").ok();
            };
            ip(&place.node, &format!("link add {link} type veth peer name eth0 netns {}", other.name()));
            ip(&place.node, &format!("addr add {range}.1/24 dev {link}"));
            ip(&place.node, &format!("link set {link} up"));
            for number in 0..count {
                ip(other, &format!("addr add {range}.{}/24 dev eth0", 2 + number));
            }
            ip(other, "link set eth0 up");
            ip(other, &format!("route add default via {range}.1"));
        }
        (0..serving).for_each(|number| serve(&place.pods, number));
        place.api.set("nodes", "n1", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}}));
        place.start();
        place
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("stderr")).unwrap();
        let mut command = self.node.command(sealane());
        command.arg("proxy").arg("--config").arg(self.api.proxy_config(self.folder.path(), ""));
        self.proxy = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// The Service with these annotations and endpoints; the rules follow before this returns.
    fn set(&self, annotations: Value, endpoints: &[usize]) {
        let by_zone = annotations.get("sealane.dev/spill-over").is_some();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|number| {
                let zone = if *number == 0 { "a" } else { "b" };
                let hints = by_zone.then(|| json!({"forZones": [{"name": zone}]}));
                json!({"addresses": [endpoint(*number).ip()], "nodeName": "n1", "zone": zone, "hints": hints,
                    "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("web-{number}")}})
            })
            .collect();
        let labels = json!({"kubernetes.io/service-name": "web"});
        let slice = json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"port": 8080, "protocol": "TCP"}]});
        self.api.set("endpointslices", "web", slice);
        let near = by_zone.then_some("PreferSameZone");
        let ip = VIP.split(':').next();
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "trafficDistribution": near,
            "ports": [{"port": 80, "protocol": "TCP"}]});
        self.api.set("services", "web", json!({"metadata": {"annotations": annotations}, "spec": spec}));
        self.until("the rules follow", "sealane_proxy_applied_revision", self.api.revision());
    }

    fn figure(&self, name: &str) -> Option<u64> {
        let at = "127.0.0.1:10249".parse().unwrap();
        request(&self.node, "GET", at, "/metrics", "").ok()?.figure(name)
    }

    #[track_caller]
    fn until(&self, what: &str, name: &str, least: u64) {
        eventually(what, || match self.figure(name) {
            Some(found) if found >= least => Ok(()),
            other => {
                let log = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
                Err(format!("{name} {other:?}, not {least}\n{log}"))
            }
        });
    }

    /// Waits until the proxy has looked so many times: one look may be under way, and the second has seen the connections
    /// that there are.
    #[track_caller]
    fn looks(&self, times: u64) {
        let name = "sealane_proxy_flow_looks_total";
        self.until("looks at flows", name, self.figure(name).unwrap() + times);
    }

    /// Connections that are kept.
    fn dial(&self, to: SocketAddr, times: usize) -> Vec<Call> {
        self.client.within(|| (0..times).map(|_| Call::begin(to).unwrap()).collect())
    }

    /// How many of so many connections, one after the other, each of four endpoints gets; the last: none.
    fn shares(&self, times: usize) -> [usize; 5] {
        let to = VIP.parse().unwrap();
        let mut counts = [0; 5];
        self.client.within(|| {
            (0..times).for_each(|_| match Call::begin(to) {
                Ok(call) => counts[call.at] += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => counts[4] += 1,
                Err(error) => panic!("{error}"),
            });
        });
        counts
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}

/// Says its number, and again for each octet, for as long as the client wants.
fn serve(pods: &Machine, number: usize) {
    let listener = pods.within(|| TcpListener::bind(endpoint(number)).unwrap());
    let octet = [u8::try_from(number).unwrap()];
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                while stream.write_all(&octet).is_ok() && stream.read_exact(&mut [0]).is_ok() {}
            });
        }
    });
}

/// A connection, and at which endpoint.
struct Call {
    stream: TcpStream,
    at: usize,
}

impl Call {
    fn begin(to: SocketAddr) -> std::io::Result<Call> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut octet = [0];
        stream.read_exact(&mut octet)?;
        Ok(Call { stream, at: octet[0].into() })
    }

    fn goes_on(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&[0])?;
        self.stream.read_exact(&mut [0])
    }
}

/// Whether a share is within six standard deviations of what a chance of `per mille` gives: it is not once in half a
/// billion runs.
#[track_caller]
fn is_about(found: usize, of: usize, per_mille: f64, what: &str) {
    let (chance, of) = (per_mille / 1000.0, of as f64);
    let deviation = (of * chance * (1.0 - chance)).sqrt();
    let expected = of * chance;
    assert!(
        (found as f64 - expected).abs() <= 6.0 * deviation,
        "{what}: {found}, not about {expected} of {of}"
    );
}

#[test]
fn weights_are_followed() {
    let place = Place::new(4, 4);
    place.set(json!({"sealane.dev/weights": "{\"web-0\": 5, \"web-1\": 2, \"web-2\": 0}"}), &[0, 1, 2, 3]);
    let found = place.shares(2000);
    // Who is not named weighs 1.
    for (number, per_mille) in [(0, 625.0), (1, 250.0), (3, 125.0)] {
        is_about(found[number], 2000, per_mille, &format!("{found:?}"));
    }
    assert_eq!((found[2], found[4]), (0, 0));
    // Another word, another share; no word, even ones.
    place.set(json!({"sealane.dev/weights": "{\"web-*\": 1, \"web-2\": 5}"}), &[0, 1, 2, 3]);
    let found = place.shares(1000);
    is_about(found[2], 1000, 625.0, &format!("{found:?}"));
    place.set(json!({}), &[0, 1, 2, 3]);
    let found = place.shares(1000);
    (0..4).for_each(|number| is_about(found[number], 1000, 250.0, &format!("{found:?}")));
}

#[test]
fn least_connections_go_where_fewest_are() {
    let place = Place::new(3, 3);
    place.set(json!({"sealane.dev/balance": "least-connections"}), &[0, 1, 2]);
    // Two have 200 each, past the Service.
    let _held: Vec<Vec<Call>> = (0..2).map(|number| place.dial(endpoint(number), 200)).collect();
    place.looks(3);
    let calls = place.dial(VIP.parse().unwrap(), 60);
    let third = calls.iter().filter(|call| call.at == 2).count();
    // The others are asked with one slot each of 64: more than twelve times of 60 once in ten million runs. Chance alone
    // would give the third 20.
    assert!(third >= 48, "{third} of 60");
}

#[test]
fn who_is_new_starts_slowly() {
    let place = Place::new(3, 3);
    // Who was there when the Service came is not new.
    place.set(json!({"sealane.dev/slow-start": "1h"}), &[0, 1]);
    let found = place.shares(500);
    is_about(found[0], 500, 500.0, &format!("{found:?}"));
    place.set(json!({"sealane.dev/slow-start": "1h"}), &[0, 1, 2]);
    let found = place.shares(2000);
    // A tenth of the others' share each, in slots 3 of 64.
    is_about(found[2], 2000, 3000.0 / 64.0, &format!("{found:?}"));
    // With a shorter start it is over some time.
    place.set(json!({"sealane.dev/slow-start": "1s"}), &[0, 1, 2]);
    eventually("its share is whole", || {
        let found = place.shares(600);
        // 200 with a standard deviation of 11.5; with 3 slots of 64 28 and 5.
        if found[2] >= 131 { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn who_fails_is_out_until_too_few_are_left() {
    let place = Place::new(4, 1);
    let eject = |panic: &str| {
        let rule = format!("failures=3,time=1m,window=1m,share=100%,panic={panic}");
        json!({"sealane.dev/eject": rule})
    };
    place.set(json!({}), &[0, 1, 2, 3]);
    let found = place.shares(400);
    is_about(found[4], 400, 750.0, &format!("{found:?}"));
    place.set(eject("0%"), &[0, 1, 2, 3]);
    eventually("those that refuse are out", || {
        place.shares(20);
        match place.figure("sealane_proxy_ejected_endpoints") {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(place.shares(300), [300, 0, 0, 0, 0]);
    // One of four is less than half: all are used.
    place.set(eject("50%"), &[0, 1, 2, 3]);
    let found = place.shares(400);
    is_about(found[4], 400, 750.0, &format!("{found:?}"));
}

#[test]
fn others_help_where_the_zone_has_enough() {
    let place = Place::new(2, 2);
    let spill = json!({"sealane.dev/spill-over": "20"});
    place.set(spill, &[0, 1]);
    let calls = place.dial(VIP.parse().unwrap(), 10);
    assert!(calls.iter().all(|call| call.at == 0), "the zone has room");
    place.looks(3);
    assert_eq!(place.shares(100), [100, 0, 0, 0, 0]);
    // Twice as many as it is to have: half of what is new goes elsewhere.
    let _held = place.dial(endpoint(0), 30);
    place.looks(3);
    let found = place.shares(400);
    // Each connection of these counts as well while it lasts: it may be a few more than half.
    let most = |chance: f64| 400.0 * chance + 6.0 * (400.0 * chance * (1.0 - chance)).sqrt();
    assert!((found[0] as f64) < most(0.5) && (found[1] as f64) < most(0.6), "{found:?}");
}

#[test]
fn after_a_scale_out_connections_move_within_the_budget() {
    const CALLS: usize = 120;
    /// It ends where those before have some 12 more than their 40, as chance may give them.
    const PART: usize = 10;
    const BUDGET: f64 = 5.0;
    let place = Place::new(3, 3);
    let moves = json!({"sealane.dev/rebalance": format!("{BUDGET}/s")});
    place.set(moves.clone(), &[0, 1]);
    let mut calls = place.dial(VIP.parse().unwrap(), CALLS);
    // Ten looks a second at most: all are older than five seconds, and may be moved at once.
    place.looks(60);
    let begun = Instant::now();
    place.set(moves, &[0, 1, 2]);
    let moved = || place.figure("sealane_proxy_moved_connections_total").unwrap();
    let mut resets = 0;
    eventually("the new one has its part", || {
        // One more may be left from before, and what came since the last look before that, on a busy machine a second.
        let (found, most) = (moved(), BUDGET * (begun.elapsed().as_secs_f64() + 1.0) + 1.0);
        assert!(found as f64 <= most, "{found} moved, not {most}");
        let mut counts = [0; 3];
        for call in &mut calls {
            if let Err(error) = call.goes_on() {
                // Where it was moved between a request and its answer, the answer is lost.
                let kinds = [ErrorKind::ConnectionReset, ErrorKind::WouldBlock];
                assert!(kinds.contains(&error.kind()), "{error}");
                resets += 1;
                *call = place.dial(VIP.parse().unwrap(), 1).remove(0);
            }
            counts[call.at] += 1;
        }
        if counts[2] >= PART { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    // One in three is led to where it was, and goes on.
    assert!(resets > 0 && resets <= moved(), "{resets} resets of {} moved", moved());
}
