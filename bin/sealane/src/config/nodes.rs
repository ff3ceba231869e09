//! The nodes of `up`: what each is called, where it is, and which part of the Pods' range it has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use sealane_host::Cidr;

/// Nodes have ranges of this size, where the Pods' range has room for so many.
const PREFIX: u8 = 24;
/// Smaller ones hold too few Pods.
const LONGEST: u8 = 28;
/// Folder of all nodes' folders but the first's, in the data directory.
const FOLDER: &str = "nodes";
/// File of the first node's name, in the data directory.
const NAME: &str = "node-name";
/// Label of all nodes: without them, `up` removes their objects.
pub(crate) const OWN: &str = "sealane.dev/node";
/// All of this machine's nodes are in it, where they have zones.
const REGION: &str = "local";

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    /// Its Pods' addresses; the first is its own.
    pub(crate) cidr: Cidr,
    pub(crate) zone: Option<String>,
    /// Where its containers, logs and volumes are.
    pub(crate) dir: PathBuf,
}

impl NodeConfig {
    /// The labels of what and where it is.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([(OWN.to_owned(), "true".to_owned())]);
        if let Some(zone) = &self.zone {
            labels.insert("topology.kubernetes.io/region".to_owned(), REGION.to_owned());
            labels.insert("topology.kubernetes.io/zone".to_owned(), zone.clone());
        }
        labels
    }
}

/// Removes the folders of nodes that have run on a data directory and do not now.
pub(crate) fn remove_folders(data_dir: &Path, but: &Nodes) -> std::io::Result<()> {
    let kept: Vec<&Path> = but.all().iter().map(|n| n.dir.as_path()).collect();
    let entries = match std::fs::read_dir(data_dir.join(FOLDER)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if !kept.contains(&path.as_path()) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// The name that the first node on a data directory has had: with it its Pods are there again, whatever the machine is
/// called by now.
pub(crate) fn kept_name(data_dir: &Path) -> Option<String> {
    let name = std::fs::read_to_string(data_dir.join(NAME)).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// Keeps that name.
pub(crate) fn keep_name(data_dir: &Path, nodes: &Nodes) -> std::io::Result<()> {
    if kept_name(data_dir).as_ref() == Some(&nodes.first.name) {
        return Ok(());
    }
    std::fs::write(data_dir.join(NAME), format!("{}\n", nodes.first.name))
}

/// The folder of a node that has run on a data directory. The first one's is the directory itself.
pub(crate) fn folder(data_dir: &Path, name: &str) -> Result<PathBuf, String> {
    let first = kept_name(data_dir);
    if first.as_deref() == Some(name) {
        return Ok(data_dir.to_owned());
    }
    let others = std::fs::read_dir(data_dir.join(FOLDER)).into_iter().flatten().flatten();
    let others = others.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut known: Vec<String> = first.into_iter().chain(others).collect();
    known.sort();
    if known.iter().any(|other| other == name) {
        return Ok(data_dir.join(FOLDER).join(name));
    }
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    Err(format!("--node {name}: no such node on {}; there is: {known}", data_dir.display()))
}

/// All of them, one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nodes {
    first: NodeConfig,
    others: Vec<NodeConfig>,
    /// The range of the network that several are linked to; `None`: there is one node.
    network: Option<Cidr>,
}

impl Nodes {
    /// `count` nodes: the first is called `name` and lives in the data directory itself, as an only one does.
    pub(crate) fn new(
        name: &str,
        count: u16,
        zones: &[String],
        pods: Cidr,
        data_dir: &Path,
    ) -> Result<Self, String> {
        if count == 0 {
            return Err("--nodes 0: one is the least; --no-node runs the API without one".to_owned());
        }
        if let Some(wrong) = zones.iter().find(|z| !is_label(z)) {
            return Err(format!(
                "--zones: {wrong:?} is no zone's name: letters, digits, -, _ and . (63 at most), as in a,b"
            ));
        }
        // Several need one more range: the network's between them, the last that there is.
        let parts = if count == 1 { 1 } else { u32::from(count) + 1 };
        let bits = u8::try_from(parts.next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX);
        let prefix = pods.prefix.saturating_add(bits).max(PREFIX).max(pods.prefix);
        if prefix > LONGEST && count > 1 {
            return Err(format!(
                "--pod-cidr {pods}: too small for --nodes {count}, each of which needs a /{LONGEST} at least"
            ));
        }
        let part = |n: u32| Cidr { network: offset(pods.network, n << (32 - prefix)), prefix };
        let node = |n: u16| {
            let own = if n == 0 { name.to_owned() } else { format!("{name}-{}", n + 1) };
            NodeConfig {
                dir: if n == 0 { data_dir.to_owned() } else { data_dir.join(FOLDER).join(&own) },
                name: own,
                cidr: part(u32::from(n)),
                zone: (!zones.is_empty()).then(|| zones[usize::from(n) % zones.len()].clone()),
            }
        };
        let last = (1u32 << (prefix - pods.prefix).min(31)) - 1;
        Ok(Nodes {
            first: node(0),
            others: (1..count).map(node).collect(),
            network: (count > 1).then(|| part(last)),
        })
    }

    /// The first.
    pub(crate) fn first(&self) -> &NodeConfig {
        &self.first
    }

    /// All, in their order.
    pub(crate) fn all(&self) -> Vec<&NodeConfig> {
        std::iter::once(&self.first).chain(&self.others).collect()
    }

    /// The range of the network between several; `None`: there is one node.
    pub(crate) fn network(&self) -> Option<Cidr> {
        self.network
    }

    /// Where Pods reach the API: on the only node's own address, or on that of the network between several, which
    /// outlives any of them.
    pub(crate) fn api_address(&self) -> Ipv4Addr {
        self.network.unwrap_or(self.first.cidr).nth(1)
    }
}

fn offset(network: Ipv4Addr, by: u32) -> Ipv4Addr {
    u32::from(network).wrapping_add(by).into()
}

/// Whether a text may be a label's value (and says something).
fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63 && text.chars().all(inner) && end(text.chars().next()) && end(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u16, pods: &str, zones: &[&str]) -> Result<Nodes, String> {
        let zones: Vec<String> = zones.iter().map(|z| (*z).to_owned()).collect();
        Nodes::new("n", count, &zones, pods.parse().unwrap(), Path::new("/data"))
    }

    #[test]
    fn ranges_and_names() {
        for (count, pods, ranges, network) in [
            (1, "10.244.0.0/16", vec!["n 10.244.0.0/24"], None),
            (1, "10.244.0.0/27", vec!["n 10.244.0.0/27"], None),
            (2, "10.244.0.0/16", vec!["n 10.244.0.0/24", "n-2 10.244.1.0/24"], Some("10.244.255.0/24")),
            (
                3,
                "10.8.0.0/22",
                vec!["n 10.8.0.0/24", "n-2 10.8.1.0/24", "n-3 10.8.2.0/24"],
                Some("10.8.3.0/24"),
            ),
            (2, "10.8.0.0/24", vec!["n 10.8.0.0/26", "n-2 10.8.0.64/26"], Some("10.8.0.192/26")),
            (2, "10.0.0.0/8", vec!["n 10.0.0.0/24", "n-2 10.0.1.0/24"], Some("10.255.255.0/24")),
        ] {
            let found = nodes(count, pods, &[]).unwrap();
            let shown: Vec<String> = found.all().iter().map(|n| format!("{} {}", n.name, n.cidr)).collect();
            assert_eq!(shown, ranges, "{pods}");
            assert_eq!(found.network().map(|n| n.to_string()).as_deref(), network, "{pods}");
        }
    }

    #[test]
    fn zones_go_round_and_bring_a_region() {
        let three = nodes(3, "10.244.0.0/16", &["a", "b"]).unwrap();
        let zones: Vec<_> = three.all().iter().map(|n| n.zone.clone().unwrap()).collect();
        assert_eq!(zones, ["a", "b", "a"]);
        let labels = three.all()[1].labels();
        assert_eq!(labels["topology.kubernetes.io/zone"], "b");
        assert_eq!(labels["topology.kubernetes.io/region"], "local");
        let plain = nodes(3, "10.244.0.0/16", &[]).unwrap();
        assert!(plain.all().iter().all(|n| n.labels().into_keys().eq([OWN])));
    }

    #[test]
    fn folders_and_the_way_to_the_api() {
        let one = nodes(1, "10.244.0.0/16", &[]).unwrap();
        assert_eq!(one.api_address(), Ipv4Addr::new(10, 244, 0, 1));
        let two = nodes(2, "10.244.0.0/16", &[]).unwrap();
        assert_eq!(two.api_address(), Ipv4Addr::new(10, 244, 255, 1));
        let dirs: Vec<_> = two.all().iter().map(|n| n.dir.clone()).collect();
        assert_eq!(dirs, [PathBuf::from("/data"), PathBuf::from("/data/nodes/n-2")]);
    }

    #[test]
    fn a_nodes_folder_is_found_by_its_name() {
        let data = tempfile::tempdir().unwrap();
        assert!(folder(data.path(), "n").unwrap_err().ends_with("none yet"));
        keep_name(data.path(), &nodes(1, "10.244.0.0/16", &[]).unwrap()).unwrap();
        for other in ["n-2", "n-3"] {
            std::fs::create_dir_all(data.path().join("nodes").join(other)).unwrap();
        }
        assert_eq!(folder(data.path(), "n").unwrap(), data.path());
        assert_eq!(folder(data.path(), "n-3").unwrap(), data.path().join("nodes/n-3"));
        assert!(folder(data.path(), "../n-2").unwrap_err().ends_with("n, n-2, n-3"));
        let two = Nodes::new("n", 2, &[], "10.244.0.0/16".parse().unwrap(), data.path()).unwrap();
        remove_folders(data.path(), &two).unwrap();
        assert!(data.path().join("nodes/n-2").exists() && !data.path().join("nodes/n-3").exists());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (count, pods, zones, why) in [
            (0, "10.244.0.0/16", vec![], "--no-node"),
            (20, "10.244.0.0/24", vec![], "too small for --nodes 20"),
            (2, "10.244.0.0/16", vec!["a", ""], "--zones"),
            (2, "10.244.0.0/16", vec!["-a"], "--zones"),
        ] {
            let error = nodes(count, pods, &zones).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        nodes(255, "10.244.0.0/16", &[]).unwrap();
        assert_eq!(nodes(256, "10.244.0.0/16", &[]).unwrap().first().cidr.prefix, 25);
    }

    #[test]
    fn no_two_share_an_address() {
        for (prefix, count) in (8u8..=28).flat_map(|p| [1, 2, 3, 7, 8, 15, 100, 255, 256].map(|n| (p, n))) {
            let pods = Cidr { network: Ipv4Addr::new(10, 0, 0, 0), prefix };
            let Ok(found) = Nodes::new("n", count, &[], pods, Path::new("/data")) else { continue };
            let mut all: Vec<Cidr> = found.all().iter().map(|n| n.cidr).collect();
            all.extend(found.network());
            for (n, one) in all.iter().enumerate() {
                assert!(pods.contains(one.network) && one.prefix >= pods.prefix, "{pods} {count}: {one}");
                assert!(all[..n].iter().all(|other| !other.overlaps(*one)), "{pods} {count}: {one}");
            }
        }
    }
}
