//! What the lines of `kubernetes` mean (`plugin/kubernetes/setup.go`).

use std::time::Duration;

use super::{Kubernetes, PodMode, Selector};
use crate::chain::args::{self, duration, err, no_more, number, one, unknown};
use crate::chain::{ApiAccess, ClientFiles, Setup, WarmFile};
use crate::corefile::{CorefileError, Directive};
use crate::name::Name;

/// How old a saved snapshot may be, where `warm_start` says nothing: a day off the API is an incident, a week is a
/// cluster that was switched off.
const WARM_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// CoreDNS's, where `startup_timeout` says nothing.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);

/// `kubernetes [ZONES...] { OPTIONS }`
///
/// # Errors
/// What is wrong with the lines.
pub fn setup(setup: &mut Setup<'_>, d: &Directive) -> Result<(), CorefileError> {
    let mut names = args::zones(&d.args)?;
    if names.is_empty() {
        names = setup.zones();
    }
    let reverse = |zone: &Name| zone.is_within(&Name::root().under(&["arpa"]));
    if names.iter().all(reverse) {
        return err(&d.name, "'kubernetes' needs a zone that is not a reverse one");
    }
    let mut k = Kubernetes {
        zones: names,
        pods: PodMode::Disabled,
        endpoint_pod_names: false,
        ttl: 5,
        namespaces: Vec::new(),
        labels: None,
        namespace_labels: None,
        no_endpoints: false,
        ignore_empty: false,
        fallthrough: None,
        zonal: false,
        startup_timeout: STARTUP_TIMEOUT,
        access: ApiAccess::default(),
        multicluster: Vec::new(),
        collapse: None,
        grpc_config: false,
        zone_order: None,
        warm_start: None,
    };
    for option in d.block.iter().flatten() {
        read(&mut k, option)?;
    }
    let line = |name: &str| d.block.iter().flatten().find(|option| option.name.text == name);
    if let (Some(_), Some(second)) = (line("namespaces"), line("namespace_labels")) {
        return err(&second.name, "'namespaces' and 'namespace_labels' exclude each other; remove one");
    }
    for option in ["zonal", "grpc_config", "zone_order"] {
        // All of them answer from endpoints.
        if let (Some(option), Some(_)) = (line(option), line("noendpoints")) {
            let message = format!("'{}' needs endpoints; remove it or 'noendpoints'", option.name.text);
            return err(&option.name, message);
        }
    }
    setup.add(k);
    Ok(())
}

fn read(k: &mut Kubernetes, o: &Directive) -> Result<(), CorefileError> {
    if let Some(flag) = flag(k, &o.name.text) {
        *flag = true;
        return no_more(&o.name.text, &o.args);
    }
    match o.name.text.as_str() {
        "pods" => {
            let token = one(o, "mode")?;
            k.pods = match token.text.as_str() {
                "disabled" => PodMode::Disabled,
                "insecure" => PodMode::Insecure,
                "verified" => PodMode::Verified,
                other => {
                    return err(
                        token,
                        format!("'{other}' is no mode of pods (disabled, insecure, verified)"),
                    );
                }
            };
        }
        "ttl" => {
            let token = one(o, "number of seconds")?;
            k.ttl = number(token, "number of seconds")?;
            if k.ttl > 3600 {
                return err(token, "a TTL of kubernetes lies between 0 and 3600");
            }
        }
        "namespaces" if !o.args.is_empty() => k.namespaces.extend(o.args.iter().map(|t| t.text.clone())),
        "namespaces" => return err(&o.name, "'namespaces' needs one at least"),
        "labels" => k.labels = selector(o)?,
        "namespace_labels" => k.namespace_labels = selector(o)?,
        "ignore" => {
            let token = one(o, "thing")?;
            if token.text != "empty_service" {
                return err(token, format!("'{}' cannot be ignored (empty_service)", token.text));
            }
            k.ignore_empty = true;
        }
        "fallthrough" => k.fallthrough = args::fallthrough(o)?,
        "startup_timeout" => k.startup_timeout = duration(one(o, "duration")?)?,
        "warm_start" => k.warm_start = Some(warm_start(o)?),
        "search" => {
            let token = one(o, "thing")?;
            if token.text != "collapse" {
                return err(token, format!("'{}' is nothing to do with searches (collapse)", token.text));
            }
            k.collapse = Some(Vec::new());
        }
        "zone_order" => {
            no_more("zone_order", &o.args)?;
            k.zone_order = Some(Box::default());
        }
        "kubeconfig" | "endpoint" | "tls" => access(&mut k.access, o)?,
        "multicluster" => k.multicluster = multicluster(o, &k.zones)?,
        limit @ ("apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight") => {
            let message = format!(
                "'{limit}' has nothing to limit: Sealane keeps one watch open for each kind of object; remove it"
            );
            return err(&o.name, message);
        }
        _ => return unknown("kubernetes", o),
    }
    Ok(())
}

/// The options that are a word alone.
fn flag<'a>(k: &'a mut Kubernetes, name: &str) -> Option<&'a mut bool> {
    Some(match name {
        "endpoint_pod_names" => &mut k.endpoint_pod_names,
        "noendpoints" => &mut k.no_endpoints,
        "zonal" => &mut k.zonal,
        "grpc_config" => &mut k.grpc_config,
        _ => return None,
    })
}

/// `multicluster ZONES...`; the last such line counts, as for CoreDNS.
fn multicluster(o: &Directive, zones: &[Name]) -> Result<Vec<Name>, CorefileError> {
    if o.args.is_empty() {
        return err(&o.name, "'multicluster' without zones does nothing; name them, or remove it");
    }
    let own: Vec<String> = zones.iter().map(ToString::to_string).collect();
    let mut out = Vec::new();
    for token in &o.args {
        for zone in args::zones(std::slice::from_ref(token))? {
            if !zones.contains(&zone) {
                let own = own.join(" ");
                let message = format!(
                    "'kubernetes' is not authoritative for the multicluster zone {zone} (its zones: {own})"
                );
                return err(token, message);
            }
            out.push(zone);
        }
    }
    Ok(out)
}

/// `warm_start FILE [MAX_AGE]`
fn warm_start(o: &Directive) -> Result<WarmFile, CorefileError> {
    let Some((path, rest)) = o.args.split_first() else {
        return err(&o.name, "'warm_start' is followed by FILE [MAX_AGE]");
    };
    no_more("warm_start", rest.get(1..).unwrap_or(&[]))?;
    let max_age = rest.first().map_or(Ok(WARM_MAX_AGE), duration)?;
    Ok(WarmFile { path: path.text.clone(), max_age })
}

fn selector(o: &Directive) -> Result<Option<Selector>, CorefileError> {
    let text: Vec<&str> = o.args.iter().map(|t| t.text.as_str()).collect();
    match o.args.first() {
        Some(first) => Selector::parse(&text.join(" ")).or_else(|message| err(first, message)).map(Some),
        None => err(&o.name, format!("'{}' needs a label selector", o.name.text)),
    }
}

/// How the API is reached.
fn access(access: &mut ApiAccess, o: &Directive) -> Result<(), CorefileError> {
    let word = |at: usize| o.args.get(at).map(|token| token.text.clone());
    match (o.name.text.as_str(), o.args.len()) {
        ("kubeconfig", 1 | 2) => (access.kubeconfig, access.context) = (word(0), word(1)),
        ("kubeconfig", _) => return err(&o.name, "'kubeconfig' is followed by FILE [CONTEXT]"),
        ("tls", 3) => {
            if let [certificate, key, authorities] = o.args.as_slice() {
                access.tls = Some(ClientFiles {
                    certificate: certificate.text.clone(),
                    key: key.text.clone(),
                    authorities: authorities.text.clone(),
                });
            }
        }
        ("tls", _) => return err(&o.name, "'tls' is followed by CERT KEY CACERT"),
        _ => {
            let token = one(o, "URL")?;
            if !token.text.starts_with("http://") && !token.text.starts_with("https://") {
                return err(token, format!("'{}' is no URL (https://HOST:PORT)", token.text));
            }
            access.endpoint = Some(token.text.clone());
        }
    }
    Ok(())
}
