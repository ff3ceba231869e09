//! A Deployment's ReplicaSets, and how many replicas each gets (`pkg/controller/deployment/{rolling,sync}.go`,
//! `util/deployment_util.go`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta;

/// Which rollout a Deployment or ReplicaSet stands for.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// How many replicas the API let a ReplicaSet want at most when it was last scaled.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment's ReplicaSets.
pub(crate) struct Sets {
    /// The one of its present template.
    pub(crate) new: Option<Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub(crate) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

/// `spec.replicas` of a Deployment.
pub(crate) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a ReplicaSet.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Whether it replaces Pods step by step.
pub(crate) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy =
        deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    strategy != Some("Recreate")
}

/// A number, or a share of `total` rounded up or down.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let share = percent * i64::from(total);
            let share = if up { (share + 99).div_euclid(100) } else { share.div_euclid(100) };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// (maxSurge, maxUnavailable) in Pods: surge is rounded up, unavailability down, and not both are 0
/// (`ResolveFenceposts`).
pub(crate) fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
    let total = wanted(deployment);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, true).max(0);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false).max(0);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// As many Pods may be unavailable.
pub(crate) fn max_unavailable(deployment: &Deployment) -> i32 {
    fenceposts(deployment).1.min(wanted(deployment))
}

/// How large the new set is to be now: `new` is its size, `all` that of all sets together.
pub(crate) fn new_size(deployment: &Deployment, new: i32, all: i32) -> i32 {
    let wanted = wanted(deployment);
    if !is_rolling(deployment) || new > wanted {
        return wanted;
    }
    let room = wanted.saturating_add(fenceposts(deployment).0) - all;
    if room <= 0 { new } else { new + room.min(wanted - new) }
}

/// The sizes that old sets shrink to, those that don't left out: unhealthy Pods first, then as many as may be missing.
pub(crate) fn shrink_old(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let min_available = wanted(deployment) - max_unavailable(deployment);
    let all: i32 = old.iter().map(|s| size(s)).sum::<i32>() + size(new);
    let most = all - min_available - (size(new) - available(new));
    if most <= 0 {
        return Vec::new();
    }
    let mut sets: Vec<(Arc<ReplicaSet>, i32)> = old.iter().map(|s| (s.clone(), size(s))).collect();
    sets.sort_by_key(|(s, _)| (meta::created(&s.metadata), s.metadata.name.clone()));
    let mut left = most;
    for (set, size) in &mut sets {
        let unhealthy = (*size - available(set)).max(0).min(left);
        *size -= unhealthy;
        left -= unhealthy;
    }
    let mut spare = old.iter().map(|s| available(s)).sum::<i32>() + available(new) - min_available;
    for (_, size) in &mut sets {
        let down = (*size).min(spare.max(0));
        *size -= down;
        spare -= down;
    }
    sets.retain(|(set, to)| size(set) != *to);
    sets
}

/// The sizes of all active sets when a rollout's Deployment is scaled: each grows or shrinks by its share, what is left
/// over goes to the largest.
pub(crate) fn proportional(
    deployment: &Deployment,
    active: &[Arc<ReplicaSet>],
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let wanted = wanted(deployment);
    let most = if wanted > 0 { wanted.saturating_add(fenceposts(deployment).0) } else { 0 };
    let to_add = most - active.iter().map(|s| size(s)).sum::<i32>();
    let mut sets = active.to_vec();
    sets.sort_by_key(|s| (meta::created(&s.metadata), s.metadata.name.clone()));
    if to_add > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|s| std::cmp::Reverse(size(s)));
    let mut added = 0;
    let mut out: Vec<(Arc<ReplicaSet>, i32)> = Vec::new();
    for set in sets {
        let share = if size(&set) == 0 || to_add == added {
            0
        } else if to_add > 0 {
            fraction(deployment, &set, most).min(to_add - added)
        } else {
            fraction(deployment, &set, most).max(to_add - added)
        };
        added += share;
        out.push((set.clone(), size(&set) + share));
    }
    if let Some((_, size)) = out.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    out
}

fn fraction(deployment: &Deployment, set: &ReplicaSet, most: i32) -> i32 {
    if wanted(deployment) == 0 {
        return -size(set);
    }
    let annotated = set.metadata.annotations.as_ref().and_then(|a| a.get(MAX_REPLICAS)?.parse().ok());
    let was: i32 = annotated
        .filter(|n| *n > 0)
        .or_else(|| deployment.status.as_ref()?.replicas.filter(|n| *n > 0))
        .unwrap_or(most);
    let share = f64::from(size(set)) * f64::from(most) / f64::from(was.max(1));
    // Both factors are counts of Pods: the product is far from the ends of i32.
    #[allow(clippy::cast_possible_truncation)]
    let rounded = share.round() as i32;
    rounded - size(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        serde_json::from_value(json!({"spec": {"replicas": replicas, "selector": {},
            "template": {}, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}}))
        .unwrap()
    }

    fn set(name: &str, size: i32, available: i32, most: i32) -> Arc<ReplicaSet> {
        let value = json!({"metadata": {"name": name, "annotations": {MAX_REPLICAS: most.to_string()}},
            "spec": {"replicas": size, "selector": {}}, "status": {"replicas": size, "availableReplicas": available}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn fenceposts_round_apart() {
        for (replicas, surge, unavailable, expected) in [
            (3, "25%", "25%", (1, 0)),
            (10, "25%", "25%", (3, 2)),
            (1, "0%", "0%", (0, 1)),
            (0, "25%", "25%", (0, 1)),
        ] {
            assert_eq!(fenceposts(&deployment(replicas, surge, unavailable)), expected, "{replicas} {surge}");
        }
    }

    #[test]
    fn the_new_set_grows_into_the_surge() {
        let d = deployment(3, "25%", "25%");
        for (new, all, expected) in [(0, 3, 1), (1, 4, 1), (1, 3, 2), (3, 3, 3), (5, 5, 3)] {
            assert_eq!(new_size(&d, new, all), expected, "{new} of {all}");
        }
    }

    #[test]
    fn old_sets_shrink_as_new_pods_come() {
        let d = deployment(3, "25%", "25%");
        for (new, old, expected) in [
            // (new size, available), (old size, available), what the old one shrinks to
            ((1, 0), (3, 3), None),
            ((1, 1), (3, 3), Some(2)),
            ((1, 0), (3, 1), None),
            ((3, 3), (1, 1), Some(0)),
        ] {
            let sizes = shrink_old(&d, &set("new", new.0, new.1, 4), &[set("old", old.0, old.1, 4)]);
            assert_eq!(sizes.first().map(|s| s.1), expected, "{new:?} {old:?}");
        }
    }

    #[test]
    fn scaling_in_a_rollout_is_shared() {
        // Upstream's example: 10 replicas, surge 3, 8 old and 5 new; to 15.
        let d = deployment(15, "20%", "10%");
        let sizes = proportional(&d, &[set("old", 8, 8, 13), set("new", 5, 0, 13)]);
        let by: Vec<_> = sizes.iter().map(|(s, n)| (s.metadata.name.clone().unwrap(), *n)).collect();
        assert_eq!(by, [("old".to_owned(), 11), ("new".to_owned(), 7)]);
    }
}
