//! What a Service holds of the ranges: its addresses and ports, taken on create and update, given back when it
//! goes (`pkg/registry/core/service/storage/alloc.go`).

use std::net::IpAddr;

use sealane_api::defaults::service::{needs_cluster_ip, needs_health_check_node_port, needs_node_port};
use sealane_api::defaults::service_families;
use sealane_api::document::{int, items, items_mut, map, text};
use sealane_api::field::{FieldError, FieldErrors, Path};
use sealane_api::{Kind, Status};
use serde_json::{Value, json};

use crate::Result;
use crate::allocate::{Allocations, Claim, Refusal};

/// Everything that a stored Service holds.
pub fn claims(service: &Value) -> Vec<Claim> {
    let spec = &service["spec"];
    let addresses =
        items(&spec["clusterIPs"]).iter().filter_map(|ip| text(ip).parse().ok()).map(Claim::Address);
    let mut all: Vec<Claim> = addresses.collect();
    let mut port = |n: i64| {
        if let Ok(n @ 1..) = u16::try_from(n)
            && !all.contains(&Claim::Port(n))
        {
            all.push(Claim::Port(n));
        }
    };
    items(&spec["ports"]).iter().for_each(|p| port(int(&p["nodePort"])));
    port(int(&spec["healthCheckNodePort"]));
    all
}

/// Completes a Service with what it needs of the ranges. What was taken is returned, to be given back if the write
/// fails; what `old` holds and the new one does not is [`dropped`].
///
/// # Errors
/// 422 with upstream's words where something asked for is taken or outside, 500 where a range is used up; nothing
/// is taken then.
pub fn allocate(
    kind: &Kind,
    service: &mut Value,
    old: Option<&Value>,
    all: &mut Allocations,
    random: u64,
) -> Result<Vec<Claim>> {
    let held = old.map(claims).unwrap_or_default();
    if let Some(old) = old {
        let errors = families(service, old, all.ranges().families());
        if !errors.is_empty() {
            let name = text(&service["metadata"]["name"]).to_owned();
            return Err(Status::invalid(kind, &name, &errors));
        }
    }
    let mut taken = Vec::new();
    let result = addresses(kind, service, &held, all, random, &mut taken)
        .and_then(|()| ports(kind, service, &held, all, random, &mut taken));
    match result {
        Ok(()) => Ok(taken),
        Err(status) => {
            all.release(&taken);
            Err(status)
        }
    }
}

/// What the old Service holds and the new one does not.
pub fn dropped(old: &Value, new: &Value) -> Vec<Claim> {
    let kept = claims(new);
    claims(old).into_iter().filter(|c| !kept.contains(c)).collect()
}

/// Families of a Service that is there: a second one comes or goes with `ipFamilyPolicy`, and its address with it
/// (`pkg/registry/core/service/storage/alloc.go`: tryDefaultValidateServiceClusterIPFields, trimFieldsForDualStackDowngrade).
fn families(service: &mut Value, old: &Value, cluster: &[&str]) -> FieldErrors {
    let before = &old["spec"];
    let spec = map(service, "spec");
    let (was, is) = (text(&before["ipFamilyPolicy"]).to_owned(), text(&spec["ipFamilyPolicy"]).to_owned());
    let kind_changes = text(&before["type"]) == "ExternalName" && text(&spec["type"]) != "ExternalName";
    if was == is && !kind_changes {
        return Vec::new();
    }
    if is == "SingleStack" && was != is {
        for key in ["clusterIPs", "ipFamilies"] {
            // Whoever writes another list means that one.
            if items(&spec[key]).len() == 2 && spec[key] == before[key] {
                spec[key] = json!([spec[key][0]]);
            }
        }
    }
    service_families::settle(service, cluster)
}

fn refuse(kind: &Kind, service: &Value, path: &Path, value: &Value, why: &str) -> Status {
    let name = text(&service["metadata"]["name"]);
    Status::invalid(kind, name, &vec![FieldError::invalid(path, value, why)])
}

fn addresses(
    kind: &Kind,
    service: &mut Value,
    held: &[Claim],
    all: &mut Allocations,
    random: u64,
    taken: &mut Vec<Claim>,
) -> Result<()> {
    let spec = &service["spec"];
    if !needs_cluster_ip(spec) || text(&spec["clusterIP"]) == "None" {
        return Ok(());
    }
    let families: Vec<bool> = match items(&spec["ipFamilies"]) {
        [] => vec![false],
        list => list.iter().map(|family| text(family) == "IPv6").collect(),
    };
    let path = Path::root("spec").child("clusterIPs");
    let list = json!(items(&spec["clusterIPs"]));
    let mut addresses: Vec<String> = Vec::new();
    for (n, ipv6) in families.into_iter().enumerate() {
        let asked = match items(&spec["clusterIPs"]).get(n).map(text).unwrap_or_default() {
            "" if n == 0 => text(&spec["clusterIP"]),
            asked => asked,
        };
        if asked.is_empty() {
            let Ok(claim) = all.next_address(ipv6, random) else {
                let full = "Internal error occurred: failed to allocate a serviceIP: range is full";
                return Err(Status::new(500, "InternalError", full));
            };
            if let Claim::Address(address) = &claim {
                addresses.push(address.to_string());
            }
            taken.push(claim);
            continue;
        }
        addresses.push(asked.to_owned());
        let Ok(address) = asked.parse::<IpAddr>() else { continue };
        if held.contains(&Claim::Address(address)) {
            continue;
        }
        match all.take_address(address) {
            Ok(claim) => taken.push(claim),
            Err(why) => {
                let why = match why {
                    Refusal::Taken => "provided IP is already allocated",
                    _ => "the provided network does not match the current range",
                };
                let why = format!("failed to allocate IP {address}: {why}");
                return Err(refuse(kind, service, &path, &list, &why));
            }
        }
    }
    let spec = map(service, "spec");
    spec["clusterIP"] = json!(addresses[0]);
    spec["clusterIPs"] = json!(addresses);
    Ok(())
}

fn ports(
    kind: &Kind,
    service: &mut Value,
    held: &[Claim],
    all: &mut Allocations,
    random: u64,
    taken: &mut Vec<Claim>,
) -> Result<()> {
    let needs = needs_node_port(&service["spec"]);
    let count = items(&service["spec"]["ports"]).len();
    for n in 0..count {
        let port = &service["spec"]["ports"][n];
        let path = Path::root("spec").child("ports").index(n).child("nodePort");
        let asked = int(&port["nodePort"]);
        if asked != 0 {
            let Ok(number) = u16::try_from(asked) else { continue };
            // TCP and UDP of one Service may share a number.
            if held.contains(&Claim::Port(number)) || taken.contains(&Claim::Port(number)) {
                continue;
            }
            let claim =
                all.take_port(number).map_err(|why| port_refused(kind, service, &path, number, why, all))?;
            taken.push(claim);
        } else if needs {
            // The number that the same port has under another protocol.
            let twin = items(&service["spec"]["ports"]).iter().find(|p| {
                p["port"] == port["port"] && p["protocol"] != port["protocol"] && int(&p["nodePort"]) != 0
            });
            let number = match twin.map(|p| int(&p["nodePort"])).and_then(|p| u16::try_from(p).ok()) {
                Some(number) => number,
                None => next_port(all, random.rotate_left(u32::try_from(n * 7 % 64).unwrap_or(0)), taken)?,
            };
            if let Some(port) = items_mut(map(service, "spec"), "ports").nth(n) {
                port["nodePort"] = json!(number);
            }
        }
    }
    if needs_health_check_node_port(&service["spec"]) {
        let asked = int(&service["spec"]["healthCheckNodePort"]);
        if asked == 0 {
            let number = next_port(all, random.rotate_left(31), taken)?;
            map(service, "spec")["healthCheckNodePort"] = json!(number);
        } else if let Ok(number) = u16::try_from(asked)
            && !held.contains(&Claim::Port(number))
        {
            let path = Path::root("spec").child("healthCheckNodePort");
            let claim =
                all.take_port(number).map_err(|why| port_refused(kind, service, &path, number, why, all))?;
            taken.push(claim);
        }
    }
    Ok(())
}

fn next_port(all: &mut Allocations, random: u64, taken: &mut Vec<Claim>) -> Result<u16> {
    match all.next_port(random) {
        Ok(Claim::Port(number)) => {
            taken.push(Claim::Port(number));
            Ok(number)
        }
        _ => Err(Status::new(
            500,
            "InternalError",
            "Internal error occurred: failed to allocate a nodePort: range is full",
        )),
    }
}

fn port_refused(
    kind: &Kind,
    service: &Value,
    path: &Path,
    number: u16,
    why: Refusal,
    all: &Allocations,
) -> Status {
    let detail = match why {
        Refusal::Taken => "provided port is already allocated".to_owned(),
        _ => {
            let ranges = all.ranges();
            format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                ranges.first_port, ranges.last_port
            )
        }
    };
    refuse(kind, service, path, &json!(number), &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ranges;
    use sealane_api::kinds::by_kind;

    fn service(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let kind = by_kind("v1", "Service").unwrap();
        let mut all = Allocations::new(Ranges::default());
        let mut made = service(
            json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}),
        );
        let taken = allocate(kind, &mut made, None, &mut all, 7).unwrap();
        assert_eq!(taken.len(), 2, "one address, one port for both protocols");
        assert_eq!(made["spec"]["ports"][0]["nodePort"], made["spec"]["ports"][1]["nodePort"]);
        let held = claims(&made);
        assert_eq!(held.len(), 2);
        let mut twin =
            service(json!({"clusterIP": made["spec"]["clusterIP"], "clusterIPs": made["spec"]["clusterIPs"],
            "type": "ClusterIP", "ports": [{"port": 1}]}));
        let refused = allocate(kind, &mut twin, None, &mut all, 7).unwrap_err();
        assert!(refused.message.contains("provided IP is already allocated"), "{}", refused.message);
        let mut plain = made.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        for port in items_mut(map(&mut plain, "spec"), "ports") {
            sealane_api::document::remove(port, "nodePort");
        }
        let gone = dropped(&made, &plain);
        assert!(matches!(gone[..], [Claim::Port(_)]));
        all.release(&held);
        assert!(allocate(kind, &mut twin, None, &mut all, 7).is_ok());
    }

    #[test]
    fn a_second_family_comes_and_goes_with_the_policy() {
        let kind = by_kind("v1", "Service").unwrap();
        let second = Some(("fd00:10:96::".parse().unwrap(), 108));
        let mut all = Allocations::new(Ranges { second, ..Ranges::default() });
        let spec = json!({"type": "ClusterIP", "ports": [{"port": 1}], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        let mut single = service(spec);
        allocate(kind, &mut single, None, &mut all, 7).unwrap();
        let first = single["spec"]["clusterIP"].clone();
        assert_eq!(single["spec"]["clusterIPs"], json!([first]));

        let mut dual = single.clone();
        dual["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        let taken = allocate(kind, &mut dual, Some(&single), &mut all, 7).unwrap();
        assert!(matches!(taken[..], [Claim::Address(IpAddr::V6(_))]), "{taken:?}");
        assert_eq!(
            (&dual["spec"]["ipFamilies"], &dual["spec"]["clusterIP"]),
            (&json!(["IPv4", "IPv6"]), &first)
        );
        assert_eq!(claims(&dual).len(), 2);

        let mut back = dual.clone();
        back["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        assert_eq!(allocate(kind, &mut back, Some(&dual), &mut all, 7).unwrap(), []);
        assert_eq!(
            (&back["spec"]["clusterIPs"], &back["spec"]["ipFamilies"]),
            (&json!([first]), &json!(["IPv4"]))
        );
        assert_eq!(dropped(&dual, &back), taken);

        // Addresses of both families may be asked for; one that is taken gives nothing away.
        let asked = |v4: &str, v6: &str| {
            service(
                json!({"type": "ClusterIP", "ports": [{"port": 1}], "clusterIP": v6, "clusterIPs": [v6, v4],
                "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}),
            )
        };
        let mut both = asked("10.96.0.77", "fd00:10:96::77");
        assert_eq!(allocate(kind, &mut both, None, &mut all, 1).unwrap().len(), 2);
        let refused =
            allocate(kind, &mut asked("10.96.0.77", "fd00:10:96::78"), None, &mut all, 1).unwrap_err();
        assert!(refused.message.contains("failed to allocate IP 10.96.0.77"), "{}", refused.message);
        assert!(allocate(kind, &mut asked("10.96.0.78", "fd00:10:96::78"), None, &mut all, 1).is_ok());

        // A cluster of one family cannot give two.
        let mut one = Allocations::new(Ranges::default());
        let mut wants = single.clone();
        wants["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
        let refused = allocate(kind, &mut wants, Some(&single), &mut one, 1).unwrap_err();
        assert!(refused.message.contains("not configured for dual-stack"), "{}", refused.message);
    }

    #[test]
    fn a_balancer_with_policy_local_gets_a_port_for_health_checks() {
        let kind = by_kind("v1", "Service").unwrap();
        let mut all = Allocations::new(Ranges::default());
        let namespace = sealane_api::Object::new(json!({"metadata": {"name": "shop"}}));
        let context = crate::Context { namespace: Some(&namespace), ..crate::Context::default() };
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let mut made = crate::create(kind, service(spec), "shop", &context).unwrap();
        allocate(kind, &mut made, None, &mut all, 3).unwrap();
        assert!(made["spec"]["healthCheckNodePort"].is_null());
        let mut local = made.clone();
        local["spec"]["externalTrafficPolicy"] = json!("Local");
        let old = sealane_api::Object::new(made.clone());
        let mut changed = crate::replace(kind, crate::Part::Whole, local, &old, None).unwrap().unwrap();
        allocate(kind, &mut changed, Some(&made), &mut all, 3).unwrap();
        assert!(int(&changed["spec"]["healthCheckNodePort"]) >= 30_000, "{changed}");
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let mut made = crate::create(kind, service(spec), "shop", &context).unwrap();
        allocate(kind, &mut made, None, &mut all, 3).unwrap();
        assert!(int(&made["spec"]["healthCheckNodePort"]) >= 30_000, "{made}");
    }

    #[test]
    fn headless_and_external_services_hold_nothing() {
        let kind = by_kind("v1", "Service").unwrap();
        let mut all = Allocations::new(Ranges::default());
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP"}),
            json!({"type": "ExternalName", "externalName": "x.y"}),
        ] {
            let mut made = service(spec);
            assert_eq!(allocate(kind, &mut made, None, &mut all, 1).unwrap(), []);
            assert_eq!(claims(&made), []);
        }
    }
}
