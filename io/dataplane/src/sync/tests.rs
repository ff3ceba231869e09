use super::*;
use crate::trouble;
use sealane_proxy::{FrontendKey, InMemorySink, Installed, contract};

#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(&'static str);

/// Fails so many times in a row, with what is left of its lists.
#[derive(Default)]
struct Flaky {
    rules: InMemorySink,
    /// Of writing.
    refuses: Vec<&'static str>,
    /// Of looking through flows.
    blind: Vec<&'static str>,
    /// How often a family is still to be tried before its rules are in force.
    lacks: usize,
}

fn trouble(left: &mut Vec<&'static str>) -> Result<(), Trouble> {
    left.pop().map_or(Ok(()), |text| Err(Trouble(text)))
}

impl RuleSink for Flaky {
    type Error = Trouble;
    fn replace(
        &mut self,
        node: &NodeContext,
        frontends: &BTreeMap<FrontendKey, Arc<Frontend>>,
    ) -> Result<(), Trouble> {
        trouble(&mut self.refuses)?;
        let _ = self.rules.replace(node, frontends);
        Ok(())
    }
    fn apply(&mut self, changes: &[Change]) -> Result<(), Trouble> {
        trouble(&mut self.refuses)?;
        let _ = self.rules.apply(changes);
        Ok(())
    }
    fn forget_flows(&mut self) -> Result<(), Trouble> {
        trouble(&mut self.blind)
    }
    fn lacking(&mut self) -> Option<String> {
        (self.lacks > 0).then(|| "the kernel lacks IPv6".to_owned())
    }
    fn try_lacking(&mut self) -> Result<(), Trouble> {
        self.lacks -= 1;
        Ok(())
    }
    fn read_back(&mut self) -> Result<Installed, Trouble> {
        self.rules.read_back().map_err(|_| Trouble("never"))
    }
}

fn worker<S: RuleSink>(sink: S) -> Worker<S> {
    Worker::new(Table::new(contract::node()), sink, None, true)
}

fn updates(seed: u64) -> impl Iterator<Item = Update> {
    contract::history(seed, 8).into_iter().zip(1..).map(|(round, revision)| Update {
        revision,
        services: round.into_iter().map(|(name, entry)| (name, entry.map(Arc::new))).collect(),
        node: None,
    })
}

#[test]
fn a_change_that_fails_is_written_anew_at_once() {
    let mut worker = worker(Flaky::default());
    for (number, update) in updates(5).enumerate() {
        // Every change: the kernel has what it was thought not to have.
        if number > 0 {
            worker.sink.refuses = vec!["EEXIST"];
        }
        let changes = worker.take(std::iter::once(update));
        worker.advance(&changes, Instant::now());
        worker.sink.refuses.clear();
        assert_eq!(worker.state, State::Whole);
        let installed = worker.sink.read_back().unwrap();
        let wanted = worker.table.frontends();
        assert!(installed.len() == wanted.len() && installed.iter().all(|(k, f)| f.means(&wanted[k])));
    }
    assert!(worker.metrics.syncs().2 > 0);
    assert!(!worker.troubles[Task::Rules as usize].over());
}

#[test]
fn what_keeps_failing_is_tried_ever_more_seldom_and_said_once() {
    let mut worker = worker(Flaky { refuses: vec!["ENOBUFS"; 20], ..Flaky::default() });
    let mut waits = Vec::new();
    let mut updates = updates(5);
    let changes = worker.take(updates.next().into_iter());
    let mut now = Instant::now();
    worker.turn(Some(&changes), now);
    while worker.state != State::Whole {
        let wait = worker.troubles[Task::Rules as usize].patience(now);
        assert!(worker.patience(now) <= wait && !worker.troubles[Task::Rules as usize].is_new("ENOBUFS"));
        waits.push(wait);
        // What comes before it is due is taken, and not tried for.
        let failures = worker.metrics.syncs().2;
        let changes = worker.take(updates.next().into_iter());
        worker.turn(Some(&changes), now);
        assert_eq!(worker.metrics.syncs().2, failures);
        now += wait;
        worker.turn(None, now);
    }
    assert_eq!((waits.len() as u64, worker.metrics.syncs().2), (20, 20));
    assert!(waits[0] < waits[19] && waits[19] <= trouble::LONGEST_RETRY, "{waits:?}");
    assert_eq!(worker.troubles[Task::Rules as usize].patience(now), Duration::ZERO);
    let wanted = worker.table.frontends();
    assert_eq!(worker.sink.rules.read_back().unwrap().len(), wanted.len());
}

#[test]
fn nothing_is_written_before_the_first_update() {
    let mut worker = worker(Flaky::default());
    worker.look();
    worker.repair(true);
    assert_eq!((worker.sink.rules.replaced, worker.state), (0, State::Waiting));
}

/// What queued up while a round was written goes in together: of each Service, its last state.
#[test]
fn bursts_are_coalesced() {
    let (updates, inbox) = std::sync::mpsc::channel();
    let rounds = contract::history(7, 400);
    for (round, revision) in rounds.iter().zip(1..) {
        let services = round.iter().map(|(name, entry)| (name.clone(), entry.clone().map(Arc::new)));
        updates.send(Update { revision, services: services.collect(), node: None }).unwrap();
    }
    let proxy = spawn(Table::new(contract::node()), InMemorySink::default(), inbox).unwrap();
    let metrics = proxy.metrics().clone();
    drop(updates);
    proxy.join();
    let line = |name: &str| {
        let text = metrics.render();
        let found = text.lines().find_map(|l| l.strip_prefix(&format!("{name} ")));
        found.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    };
    assert_eq!(metrics.syncs(), (1, 0, 0), "400 updates, one round");
    assert_eq!(line("sealane_proxy_applied_revision"), "400");
    let mut table = Table::new(contract::node());
    rounds.iter().for_each(|round| {
        table.update(round.iter().map(|(name, entry)| (name, entry.as_ref())));
    });
    assert_eq!(line("sealane_proxy_frontends"), table.frontends().len().to_string());
}

/// Flows cannot be looked through: rules are in force all the same, and nothing is written anew.
#[test]
fn flows_that_cannot_be_forgotten_hold_no_rules_up() {
    let mut worker = worker(Flaky { blind: vec!["the kernel lacks conntrack"; 12], ..Flaky::default() });
    for update in updates(5) {
        let changes = worker.take(std::iter::once(update));
        worker.turn(Some(&changes), Instant::now());
        assert_eq!(worker.state, State::Whole);
    }
    let counted = |worker: &Worker<Flaky>| {
        let text = worker.metrics.render();
        let line = |l: &str| {
            l.strip_prefix("sealane_proxy_failures_total{task=\"stale_flows\"} ").map(str::to_owned)
        };
        text.lines().find_map(line).unwrap().parse::<usize>().unwrap()
    };
    let before = counted(&worker);
    assert!((1..=8).contains(&before));
    while !worker.sink.blind.is_empty() {
        worker.look();
    }
    assert_eq!(counted(&worker), 12);
    worker.look();
    assert!(!worker.troubles[Task::StaleFlows as usize].over(), "it is over");
    assert_eq!((worker.metrics.syncs().0, worker.metrics.syncs().2), (1, 0));
}

/// One family's rules are not in force: that is said once and tried ever more seldom, and the other's are not written anew.
#[test]
fn what_one_family_lacks_is_tried_again_beside_the_rules() {
    let mut worker = worker(Flaky { lacks: 3, ..Flaky::default() });
    let changes = worker.take(updates(5).take(1));
    worker.turn(Some(&changes), Instant::now());
    let (mut now, mut waits) = (Instant::now(), Vec::new());
    while worker.sink.lacking().is_some() {
        worker.try_lacking(now);
        let wait = worker.troubles[Task::Family as usize].patience(now);
        let left = worker.sink.lacks;
        worker.try_lacking(now);
        assert_eq!(worker.sink.lacks, if wait.is_zero() { left.saturating_sub(1) } else { left });
        waits.push(wait);
        now += wait;
    }
    assert!(waits.len() >= 2 && waits[0] < waits[1], "{waits:?}");
    worker.try_lacking(now);
    assert!(!worker.troubles[Task::Family as usize].over(), "it is over");
    assert_eq!((worker.metrics.syncs().0, worker.metrics.syncs().2), (1, 0));
}

#[test]
fn a_table_of_flows_that_is_full_is_noticed_and_forgotten() {
    let mut worker = worker(Flaky::default());
    let seen =
        [(0, false), (5, true), (9, true), (9, false), (9, false), (10, true)].map(|(dropped, expected)| {
            worker.weigh(Some(FlowTable { entries: 1, limit: 1, dropped }), Instant::now());
            (worker.losing, expected)
        });
    assert!(seen.iter().all(|(is, expected)| is == expected), "{seen:?}");
}
