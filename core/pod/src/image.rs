//! What to do about a container's image, and with whose credentials.

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Secret};

/// What the pull policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensure {
    /// It is there: run it.
    Present,
    /// It is there, pinned by a loaded archive or built in, and meets `Always`.
    Pinned,
    /// Pull it.
    Pull,
    /// It is not there and may not be pulled (ErrImageNeverPull).
    Never,
}

/// Decides by `imagePullPolicy`, whether the image is on the node, and whether it is pinned there.
pub fn ensure(container: &Container, present: bool, pinned: bool) -> Ensure {
    let reference = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(reference));
    match (policy, present) {
        ("Always", true) if pinned => Ensure::Pinned,
        ("Always", _) => Ensure::Pull,
        (_, true) => Ensure::Present,
        ("Never", false) => Ensure::Never,
        (_, false) => Ensure::Pull,
    }
}

/// `Always` for the tag `latest`, said or meant, else `IfNotPresent` (`SetDefaults_Container`).
pub fn default_policy(reference: &str) -> &'static str {
    let name = reference.rsplit('/').next().unwrap_or_default();
    match name.split_once(':') {
        _ if name.contains('@') => "IfNotPresent",
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

/// Whether the text can name an image at all (else InvalidImageName): no spaces, upper case in the repository, or
/// empty parts.
pub fn valid_reference(reference: &str) -> bool {
    let (name, digest) = match reference.split_once('@') {
        Some((n, d)) => (n, Some(d)),
        None => (reference, None),
    };
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match name[slash..].find(':') {
        Some(i) => (&name[..slash + i], Some(&name[slash + i + 1..])),
        None => (name, None),
    };
    let tag_ok = tag.is_none_or(|t| {
        !t.is_empty()
            && t.len() <= 128
            && !t.starts_with(['.', '-'])
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    });
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':')
            .is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let host =
        repository.split_once('/').map(|(h, _)| h).filter(|h| h.contains(['.', ':']) || *h == "localhost");
    let path = host.map_or(repository, |h| &repository[h.len() + 1..]);
    let part_ok = |p: &str| {
        !p.is_empty()
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
            && p.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && p.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    tag_ok && digest_ok && path.split('/').all(part_ok)
}

/// A registry's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// The login for `reference` in a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
pub fn login(reference: &str, secret: &Secret) -> Option<Login> {
    let data = secret.data.as_ref()?;
    let auths = match data.get(".dockerconfigjson") {
        Some(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes.0).ok()?.get("auths")?.clone(),
        None => serde_json::from_slice(&data.get(".dockercfg")?.0).ok()?,
    };
    let first = reference.split('/').next().unwrap_or_default();
    let explicit = reference.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let registry = if explicit { first } else { "docker.io" };
    let entry = auths.as_object()?.iter().find(|(key, _)| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        let hub = registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io");
        let path = path.trim_matches('/');
        let below = path.is_empty() || hub || reference.starts_with(&format!("{host}/{path}"));
        (host == registry || hub) && below
    })?;
    let text = |name: &str| entry.1.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Login { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Login { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn policies() {
        for (image, policy, present, pinned, want) in [
            ("a:1", None, true, false, Ensure::Present),
            ("a:1", None, false, false, Ensure::Pull),
            ("a", None, true, false, Ensure::Pull),
            ("a:latest", None, true, true, Ensure::Pinned),
            ("a", Some("IfNotPresent"), true, false, Ensure::Present),
            ("a", Some("Never"), true, false, Ensure::Present),
            ("a", Some("Never"), false, false, Ensure::Never),
            ("a:1", Some("Always"), false, true, Ensure::Pull),
            ("host:5000/a", None, true, false, Ensure::Pull),
            ("host:5000/a:2", None, true, false, Ensure::Present),
            ("a@sha256:0", None, true, false, Ensure::Present),
        ] {
            let c = from_value(json!({"name": "c", "image": image, "imagePullPolicy": policy})).unwrap();
            assert_eq!(ensure(&c, present, pinned), want, "{image} {policy:?} {present} {pinned}");
        }
    }

    #[test]
    fn references() {
        for (reference, want) in [
            ("nginx", true),
            ("registry.k8s.io/pause:3.10", true),
            ("localhost:5000/a/b_c:v1", true),
            (&format!("a@sha256:{}", "0".repeat(64)), true),
            ("", false),
            ("NGINX", false),
            ("a b", false),
            ("a:", false),
            ("a//b", false),
            ("a@sha256:zz", false),
        ] {
            assert_eq!(valid_reference(reference), want, "{reference}");
        }
    }

    #[test]
    fn logins() {
        let secret: Secret = from_value(json!({"stringData": {}, "data": {".dockerconfigjson":
            base64::engine::general_purpose::STANDARD.encode(
                json!({"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"},
                    "r.example:5000": {"username": "a", "password": "b"}}}).to_string())}}))
        .unwrap();
        let of = |r: &str| login(r, &secret).map(|l| format!("{}/{}", l.username, l.password));
        assert_eq!(of("nginx").as_deref(), Some("u/p"));
        assert_eq!(of("r.example:5000/x/y:1").as_deref(), Some("a/b"));
        assert_eq!(of("other.example/x"), None);
    }
}
