//! Who a container's process is: the image's user or the Pod's `securityContext`, resolved with the image's own
//! `/etc/passwd` and `/etc/group`.

use k8s_openapi::api::core::v1::{Container, Pod};

/// User, group and supplementary groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory of `/etc/passwd`, "/" where there is none.
    pub home: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some(User {
            name: f.first()?,
            uid: f.get(2)?.parse().ok()?,
            gid: f.get(3)?.parse().ok()?,
            home: f.get(5)?,
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3).copied().unwrap_or_default()))
    })
}

/// The identity of `container`; `image_user` is the image's `USER` (`name`, `uid`, either with `:group`).
///
/// # Errors
/// With kubelet's message for CreateContainerConfigError: `runAsNonRoot` is broken or cannot be checked, or the
/// user does not exist in the image.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<Identity, String> {
    let spec = pod.spec.as_ref();
    let of_pod = spec.and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let run_as_user = own.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let run_as_group = own.and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
    let non_root =
        own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root)) == Some(true);
    let id = |n: i64| u32::try_from(n).map_err(|_| format!("user or group id {n} is out of range"));

    let (user_part, group_part) = image_user.split_once(':').unwrap_or((image_user, ""));
    let mut out = Identity { home: "/".to_owned(), ..Identity::default() };
    let mut name = None;
    match run_as_user {
        Some(uid) => {
            out.uid = id(uid)?;
            if non_root && uid == 0 {
                return Err(format!(
                    "container's runAsUser breaks non-root policy (pod: {:?}, container: {})",
                    pod_name(pod),
                    container.name
                ));
            }
        }
        None => match (user_part.parse::<u32>(), user_part) {
            (Ok(uid), _) => out.uid = uid,
            (Err(_), "") => {}
            (Err(_), user) => {
                if non_root {
                    return Err(format!(
                        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is \
                         non-root (pod: {:?}, container: {})",
                        pod_name(pod),
                        container.name
                    ));
                }
                let known = users(passwd).find(|u| u.name == user);
                out.uid = known
                    .ok_or_else(|| format!("unable to find user {user}: no matching entries in passwd file"))?
                    .uid;
            }
        },
    }
    if non_root && run_as_user.is_none() && out.uid == 0 {
        return Err(format!(
            "container has runAsNonRoot and image will run as root (pod: {:?}, container: {})",
            pod_name(pod),
            container.name
        ));
    }
    if let Some(user) = users(passwd).find(|u| u.uid == out.uid) {
        out.gid = user.gid;
        out.home = user.home.to_owned();
        name = Some(user.name);
    }
    if run_as_user.is_none() && !group_part.is_empty() {
        out.gid = match group_part.parse() {
            Ok(gid) => gid,
            Err(_) => {
                groups(group)
                    .find(|(n, _, _)| *n == group_part)
                    .ok_or_else(|| {
                        format!("unable to find group {group_part}: no matching entries in group file")
                    })?
                    .1
            }
        };
    }
    if let Some(gid) = run_as_group {
        out.gid = id(gid)?;
    }
    let strict = of_pod.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    if let (Some(name), false) = (name, strict) {
        let of_image = groups(group).filter(|(_, _, m)| m.split(',').any(|m| m == name));
        out.groups.extend(of_image.map(|(_, gid, _)| gid));
    }
    for gid in of_pod.and_then(|c| c.supplemental_groups.as_ref()).into_iter().flatten() {
        out.groups.push(id(*gid)?);
    }
    if let Some(gid) = of_pod.and_then(|c| c.fs_group) {
        out.groups.push(id(gid)?);
    }
    out.groups.sort_unstable();
    out.groups.dedup();
    Ok(out)
}

/// `name_namespace(uid)`, as kubelet's `format.Pod`.
pub fn pod_name(pod: &Pod) -> String {
    let m = &pod.metadata;
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    format!("{}_{}({})", text(&m.name), text(&m.namespace), text(&m.uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:50:web,other\n";

    fn run(pod: Value, own: Value, user: &str) -> Result<Identity, String> {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "securityContext": pod}}))
        .unwrap();
        let c: Container = from_value(json!({"name": "c", "securityContext": own})).unwrap();
        resolve(&pod, &c, user, PASSWD, GROUP)
    }

    #[test]
    fn users_and_groups() {
        let id = |uid, gid, groups: &[u32], home: &str| Identity {
            uid,
            gid,
            groups: groups.into(),
            home: home.into(),
        };
        for (pod, own, user, want) in [
            (json!({}), json!({}), "", id(0, 0, &[], "/root")),
            (json!({}), json!({}), "web", id(33, 34, &[50], "/var/www")),
            (json!({}), json!({}), "33:log", id(33, 50, &[50], "/var/www")),
            (json!({}), json!({}), "1000:2000", id(1000, 2000, &[], "/")),
            (json!({"runAsUser": 33}), json!({}), "root", id(33, 34, &[50], "/var/www")),
            (json!({"runAsUser": 33}), json!({"runAsUser": 7, "runAsGroup": 8}), "", id(7, 8, &[], "/")),
            (
                json!({"fsGroup": 9, "supplementalGroups": [3], "supplementalGroupsPolicy": "Strict"}),
                json!({}),
                "web",
                id(33, 34, &[3, 9], "/var/www"),
            ),
            (json!({"runAsNonRoot": true}), json!({}), "33", id(33, 34, &[50], "/var/www")),
        ] {
            assert_eq!(run(pod.clone(), own.clone(), user), Ok(want), "{pod} {own} {user}");
        }
    }

    #[test]
    fn refusals() {
        for (pod, user, want) in [
            (json!({"runAsNonRoot": true}), "", "image will run as root"),
            (json!({"runAsNonRoot": true}), "web", "non-numeric user (web)"),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), "", "breaks non-root policy"),
            (json!({}), "nobody", "unable to find user nobody"),
            (json!({}), "web:no", "unable to find group no"),
        ] {
            let err = run(pod, json!({}), user).unwrap_err();
            assert!(err.contains(want), "{err}");
        }
    }
}
