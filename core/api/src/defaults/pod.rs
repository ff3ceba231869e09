//! Pods and Pod templates (`pkg/apis/core/v1/defaults.go`: `SetDefaults_PodSpec` and what it holds).

use serde_json::{Value, json};

use super::cluster::quantities;
use super::preset_each;
use crate::document::{entries, int, items_mut, map, omit_empty, preset, preset_zero, text, truth};
use crate::quantity;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A Pod: its spec, `enableServiceLinks`, requests from limits, host ports in the host's network.
pub fn pod(object: &mut Value) {
    let spec = map(object, "spec");
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    preset(spec, "enableServiceLinks", true);
    if truth(&spec["hostNetwork"]) {
        for list in ["initContainers", "containers"] {
            for container in items_mut(spec, list) {
                for port in items_mut(container, "ports") {
                    if int(&port["hostPort"]) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
    pod_spec(spec);
    let status = map(object, "status");
    omit_empty(
        status,
        &["phase", "conditions", "message", "reason", "podIP", "podIPs", "hostIP", "containerStatuses"],
    );
    addresses(status);
    super::condition_times(status, &["lastProbeTime", "lastTransitionTime"]);
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for container in items_mut(status, list) {
            container_status(container);
        }
    }
}

/// `podIP` is the first of `podIPs` (`Convert_v1_PodStatus_To_core_PodStatus`).
fn addresses(status: &mut Value) {
    let (one, first) = (text(&status["podIP"]).to_owned(), text(&status["podIPs"][0]["ip"]).to_owned());
    if one.is_empty() && !first.is_empty() {
        status["podIP"] = json!(first);
    } else if !one.is_empty() && one != first {
        status["podIPs"] = json!([{"ip": one}]);
    }
}

/// A container's status: Go writes these even where they are empty.
fn container_status(status: &mut Value) {
    map(status, "state");
    map(status, "lastState");
    preset(status, "ready", false);
    preset(status, "restartCount", 0);
    preset(status, "image", "");
    preset(status, "imageID", "");
    for state in ["state", "lastState"] {
        if let Some(ended) = status[state].get_mut("terminated").filter(|t| t.is_object()) {
            preset(ended, "exitCode", 0);
            for key in ["startedAt", "finishedAt"] {
                preset(ended, key, Value::Null);
            }
        }
        if let Some(running) = status[state].get_mut("running").filter(|t| t.is_object()) {
            preset(running, "startedAt", Value::Null);
        }
    }
}

/// A Pod template's metadata and spec.
pub fn template(template: &mut Value) {
    super::metadata(map(template, "metadata"));
    let spec = map(template, "spec");
    if spec["containers"].is_null() {
        spec["containers"] = Value::Null;
    }
    pod_spec(spec);
}

fn pod_spec(spec: &mut Value) {
    preset_zero(spec, "dnsPolicy", "ClusterFirst");
    preset_zero(spec, "restartPolicy", "Always");
    map(spec, "securityContext");
    preset(spec, "terminationGracePeriodSeconds", 30);
    preset_zero(spec, "schedulerName", "default-scheduler");
    // `serviceAccount` is the old name of `serviceAccountName`; both are written.
    let account = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .map(text)
        .find(|s| !s.is_empty())
        .map(str::to_owned);
    if let Some(account) = account {
        spec["serviceAccountName"] = json!(account);
        spec["serviceAccount"] = json!(account);
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
    for list in CONTAINERS {
        for container in items_mut(spec, list) {
            self::container(container);
        }
    }
    quantities(spec, "overhead");
    for toleration in items_mut(spec, "tolerations") {
        omit_empty(toleration, &["key", "operator", "value", "effect"]);
    }
    omit_empty(
        spec,
        &[
            "volumes",
            "initContainers",
            "ephemeralContainers",
            "serviceAccountName",
            "serviceAccount",
            "nodeName",
            "nodeSelector",
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "imagePullSecrets",
            "hostname",
            "subdomain",
            "tolerations",
            "hostAliases",
            "priorityClassName",
            "readinessGates",
            "topologySpreadConstraints",
            "schedulingGates",
            "resourceClaims",
        ],
    );
}

/// Whether an image without a pull policy is pulled always: its tag is `latest`, or it has neither
/// tag nor digest (`parsers.ParseImageName`).
fn is_latest(image: &str) -> bool {
    if image.is_empty() || image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn container(container: &mut Value) {
    let policy = if is_latest(text(&container["image"])) { "Always" } else { "IfNotPresent" };
    preset_zero(container, "imagePullPolicy", policy);
    preset_zero(container, "terminationMessagePath", "/dev/termination-log");
    preset_zero(container, "terminationMessagePolicy", "File");
    let resources = map(container, "resources");
    quantities(resources, "limits");
    quantities(resources, "requests");
    preset_each(container, "ports", "protocol", "TCP");
    for port in items_mut(container, "ports") {
        preset_zero(port, "protocol", "TCP");
        omit_empty(port, &["name", "hostPort", "hostIP"]);
    }
    for variable in items_mut(container, "env") {
        field_reference(variable.get_mut("valueFrom"));
        omit_empty(variable, &["value"]);
    }
    for mount in items_mut(container, "volumeMounts") {
        omit_empty(mount, &["readOnly", "subPath", "subPathExpr"]);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            self::probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            http_get(hook);
        }
    }
    omit_empty(
        container,
        &[
            "image",
            "command",
            "args",
            "workingDir",
            "ports",
            "envFrom",
            "env",
            "volumeMounts",
            "volumeDevices",
            "stdin",
            "stdinOnce",
            "tty",
        ],
    );
}

fn probe(probe: &mut Value) {
    preset_zero(probe, "timeoutSeconds", 1);
    preset_zero(probe, "periodSeconds", 10);
    preset_zero(probe, "successThreshold", 1);
    preset_zero(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
        preset(grpc, "service", "");
    }
    omit_empty(probe, &["initialDelaySeconds"]);
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|g| g.is_object()) {
        preset_zero(get, "path", "/");
        preset_zero(get, "scheme", "HTTP");
        omit_empty(get, &["host", "httpHeaders"]);
    }
}

fn field_reference(source: Option<&mut Value>) {
    let Some(source) = source else { return };
    if let Some(field) = source.get_mut("fieldRef").filter(|f| f.is_object()) {
        preset_zero(field, "apiVersion", "v1");
    }
    if let Some(resource) = source.get_mut("resourceFieldRef").filter(|f| f.is_object()) {
        let divisor = quantity::canonical(&resource["divisor"]).unwrap_or_else(|| "0".to_owned());
        resource["divisor"] = json!(divisor);
    }
}

fn volume(volume: &mut Value) {
    const MODE: i64 = 0o644;
    if entries(volume).all(|(key, source)| key == "name" || source.is_null()) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|s| s.is_object()) {
            preset(source, "defaultMode", MODE);
            for item in items_mut(source, "items") {
                field_reference(Some(item));
            }
            for part in items_mut(source, "sources") {
                if let Some(token) = part.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
                    preset(token, "expirationSeconds", 3600);
                }
                if let Some(fields) = part.get_mut("downwardAPI").filter(|t| t.is_object()) {
                    for item in items_mut(fields, "items") {
                        field_reference(Some(item));
                    }
                }
            }
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|s| s.is_object()) {
        preset(path, "type", "");
    }
    if let Some(dir) = volume.get_mut("emptyDir").filter(|s| s.is_object()) {
        if let Some(limit) = quantity::canonical(&dir["sizeLimit"]) {
            dir["sizeLimit"] = json!(limit);
        }
        omit_empty(dir, &["medium"]);
    }
}

/// `SetDefaults_Pod`: a limit without a request is a request too.
fn requests_from_limits(container: &mut Value) {
    let limits = container.get("resources").and_then(|r| r.get("limits")).cloned().unwrap_or(Value::Null);
    if limits.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    let requests = map(map(container, "resources"), "requests");
    for (name, limit) in entries(&limits) {
        preset(requests, name, limit.clone());
    }
}
