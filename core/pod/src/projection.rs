//! The files of ConfigMap, Secret, downward API and projected volumes (`pkg/volume/configmap`, `secret`,
//! `downwardapi`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use crate::downward::{self, NodeFacts};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by their relative path.
pub type Files = BTreeMap<String, File>;

/// Permission bits where nobody says others (`ConfigMapVolumeSourceDefaultMode`).
pub const DEFAULT_MODE: u32 = 0o644;

/// The mode of a volume source.
pub fn mode(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|m| u32::try_from(m).ok()).map_or(default, |m| m & 0o7777)
}

/// Whether a path may be below a volume: relative and without `..` (`validateLocalNonReservedPath`).
pub fn safe_path(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && path.split('/').all(|p| !p.is_empty() && p != ".." && p != ".")
}

fn select(
    kind: &str,
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default: u32,
    optional: bool,
) -> Result<Files, String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all.into_iter().map(|(k, data)| (k, File { data, mode: default })).collect());
    };
    let mut out = Files::new();
    for item in items {
        match all.get(&item.key) {
            Some(data) if safe_path(&item.path) => {
                out.insert(item.path.clone(), File { data: data.clone(), mode: mode(item.mode, default) });
            }
            Some(_) => return Err(format!("{} path {:?} is not below the volume", kind, item.path)),
            None if optional => {}
            None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
        }
    }
    Ok(out)
}

/// A ConfigMap's files.
///
/// # Errors
/// Where an item names a key that does not exist and is not optional, or a path outside.
pub fn config_map(
    map: &ConfigMap,
    items: Option<&Vec<KeyToPath>>,
    default: u32,
    optional: bool,
) -> Result<Files, String> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    select("configmap", text.chain(binary).collect(), items, default, optional)
}

/// A Secret's files.
///
/// # Errors
/// As [`config_map`].
pub fn secret(
    secret: &Secret,
    items: Option<&Vec<KeyToPath>>,
    default: u32,
    optional: bool,
) -> Result<Files, String> {
    let all = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    select("secret", all, items, default, optional)
}

/// A downward API volume's files.
///
/// # Errors
/// Where a field or resource does not exist.
pub fn downward_api(
    pod: &Pod,
    facts: &NodeFacts,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default: u32,
) -> Result<Files, String> {
    let mut out = Files::new();
    for item in items.into_iter().flatten() {
        if !safe_path(&item.path) {
            return Err(format!("downwardAPI path {:?} is not below the volume", item.path));
        }
        let data = match (&item.field_ref, &item.resource_field_ref) {
            (Some(f), _) => downward::field(pod, facts, &f.field_path)?,
            (None, Some(r)) => downward::resource(pod, None, facts, r)?,
            (None, None) => return Err(format!("downwardAPI item {:?} refers to nothing", item.path)),
        };
        out.insert(item.path.clone(), File { data: data.into_bytes(), mode: mode(item.mode, default) });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn selects_keys() {
        let map: ConfigMap =
            from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}})).unwrap();
        let paths = |items: serde_json::Value, optional| {
            let items: Option<Vec<KeyToPath>> = from_value(items).unwrap();
            config_map(&map, items.as_ref(), DEFAULT_MODE, optional).map(|f| {
                f.into_iter().map(|(p, f)| format!("{p}:{:o}", f.mode)).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(paths(json!(null), false).as_deref(), Ok("a:644 b:644 c:644"));
        assert_eq!(paths(json!([{"key": "a", "path": "x/y", "mode": 256}]), false).as_deref(), Ok("x/y:400"));
        assert!(paths(json!([{"key": "z", "path": "x"}]), false).is_err());
        assert_eq!(paths(json!([{"key": "z", "path": "x"}]), true).as_deref(), Ok(""));
        assert!(paths(json!([{"key": "a", "path": "../x"}]), false).is_err());
    }

    #[test]
    fn paths() {
        for (path, want) in
            [("a", true), ("a/b", true), ("", false), ("/a", false), ("a/../b", false), ("..data", false)]
        {
            assert_eq!(safe_path(path), want, "{path}");
        }
    }
}
