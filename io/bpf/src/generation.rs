//! One set of maps, and the programs that read them.

use crate::BpfError;
use crate::links::number;
use crate::maglev;
use crate::namespace::within;
use crate::pins::{KEPT, Pins};
use crate::query::{Target as Hooked, attached};
use crate::ranges::Ranges;
use crate::raw::{self, Belief, Key, Place, Range, Source, Track, TrackKey, Value, flag, target};
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{MembarrierCommand, membarrier};
use sealane_proxy::{Backend, Cidr, Class, Frontend, FrontendKey, Masquerade, Target};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The programs, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/services.o"));

/// Programs with the kernel's number of the hook that each is for (`enum bpf_attach_type`).
const PROGRAMS: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// Programs at links from outside, with the kernel's numbers of their hooks (`BPF_TCX_EGRESS`, `BPF_TCX_INGRESS`). What
/// answers leave by is there before somebody is led.
const AT_LINKS: [(&str, TcAttachType, u32); 2] =
    [("to_outside", TcAttachType::Egress, 47), ("from_outside", TcAttachType::Ingress, 46)];

/// The id of the Pods' ranges in `sources`.
pub(crate) const PODS: u32 = 0;

/// Entries that a map has room for at least.
const SMALLEST: usize = 1 << 12;

/// What is to be held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub frontends: usize,
    pub backends: usize,
    pub sources: usize,
    pub hashes: usize,
}

/// What programs need to know beside frontends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The node's own addresses, whose ports are the node's.
    pub own: Vec<IpAddr>,
    /// The Pods' ranges.
    pub pods: Vec<Cidr>,
    /// The mark by which other rules masquerade.
    pub mark: u32,
    /// Links from outside.
    pub links: Vec<String>,
}

impl Sizes {
    pub fn of<'a>(frontends: impl IntoIterator<Item = &'a Arc<Frontend>>, facts: &Facts) -> Self {
        let mut sizes = Self { sources: facts.pods.len(), ..Self::default() };
        for frontend in frontends {
            sizes.frontends += 1;
            sizes.backends += places(frontend);
            if !facts.links.is_empty() {
                sizes.hashes += maglev::length(from_outside(frontend).len());
            }
            sizes.sources += frontend.sources.as_ref().map_or(0, |s| s.len());
        }
        sizes
    }
}

/// Places that a frontend takes.
fn places(frontend: &Frontend) -> usize {
    let targets = [Some(&frontend.target), frontend.outside.as_ref()];
    targets.into_iter().flatten().map(|t| t.backends().len()).sum()
}

/// Slots for who comes from outside, where that is what the address is for.
fn from_outside(frontend: &Frontend) -> &[Backend] {
    match frontend.class {
        Class::External => frontend.outside.as_ref().unwrap_or(&frontend.target).backends(),
        Class::ClusterIp => &[],
    }
}

/// Room for twice of it.
fn room(wanted: usize) -> u32 {
    u32::try_from((2 * wanted).next_power_of_two().max(SMALLEST)).unwrap_or(1 << 31)
}

/// A map is full: it has to be made anew, larger.
#[derive(Debug)]
pub(crate) enum Refusal {
    Full,
    Failed(BpfError),
}

impl From<BpfError> for Refusal {
    fn from(error: BpfError) -> Self {
        Refusal::Failed(error)
    }
}

/// What stands in the maps for a frontend.
#[derive(Clone, Debug)]
struct Standing {
    frontend: Arc<Frontend>,
    value: Value,
}

type Hash<K, V> = HashMap<MapData, K, V>;

/// Maps and programs. Dropped, the programs are detached.
pub(crate) struct Generation {
    ebpf: Ebpf,
    pub frontends: Hash<Key, Value>,
    pub backends: Array<MapData, Place>,
    pub cluster: Hash<raw::Address, u32>,
    pub sources: LpmTrie<MapData, Source, u32>,
    pub beliefs: Array<MapData, Belief>,
    pub tracks: Hash<TrackKey, Track>,
    hashes: Array<MapData, u32>,
    ranges: Ranges,
    tables: Ranges,
    standing: BTreeMap<FrontendKey, Standing>,
    /// How many frontends a cluster address has.
    addresses: BTreeMap<IpAddr, usize>,
    facts: Facts,
    next_id: u32,
    /// Source ranges that no frontend leads to any more.
    stale: Vec<(u32, Arc<[Cidr]>)>,
    prefixes: usize,
    room: (usize, usize),
    ids: Vec<u32>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("programs", &self.ids).finish_non_exhaustive()
    }
}

impl Generation {
    /// Makes maps with room for twice of what is to be held. No program is attached yet.
    pub fn load(sizes: Sizes, facts: Facts, pins: &Pins) -> Result<Self, BpfError> {
        // Before 5.18 a program cannot say why it refuses, and one that would is refused itself.
        Self::load_as(sizes, facts.clone(), pins, 1).or_else(|_| Self::load_as(sizes, facts, pins, 0))
    }

    fn load_as(sizes: Sizes, facts: Facts, pins: &Pins, says_why: u8) -> Result<Self, BpfError> {
        let (frontends, backends) = (room(sizes.frontends), room(sizes.backends));
        let (sources, hashes) = (room(sizes.sources), room(sizes.hashes));
        let mut loader = EbpfLoader::new();
        // Where sockets, clients and flows were led is known to all generations.
        for name in KEPT {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader
            .override_global("says_why", &says_why, true)
            .override_global("masquerade_mark", &facts.mark, true)
            .map_max_entries("frontends", frontends)
            .map_max_entries("cluster", frontends)
            .map_max_entries("backends", backends)
            .map_max_entries("sources", sources)
            .map_max_entries("hashes", hashes)
            .load(OBJECT)?;
        for (name, _) in PROGRAMS {
            socket_program(&mut ebpf, name)?.load().map_err(|why| refused(name, why))?;
        }
        if !facts.links.is_empty() {
            for (name, ..) in AT_LINKS {
                link_program(&mut ebpf, name)?.load().map_err(|why| refused(name, why))?;
            }
        }
        let mut generation = Self {
            frontends: take(&mut ebpf, "frontends")?,
            backends: take(&mut ebpf, "backends")?,
            cluster: take(&mut ebpf, "cluster")?,
            sources: take(&mut ebpf, "sources")?,
            beliefs: take(&mut ebpf, "beliefs")?,
            tracks: take(&mut ebpf, "tracks")?,
            hashes: take(&mut ebpf, "hashes")?,
            ranges: Ranges::new(backends),
            tables: Ranges::new(hashes),
            standing: BTreeMap::new(),
            addresses: BTreeMap::new(),
            next_id: PODS + 1,
            stale: Vec::new(),
            prefixes: facts.pods.len(),
            room: (frontends as usize, sources as usize),
            ids: Vec::new(),
            facts,
            ebpf,
        };
        for range in &generation.facts.pods {
            let written = generation.sources.insert(&prefix(PODS, range), 1, 0);
            written.map_err(BpfError::map("sources"))?;
        }
        Ok(generation)
    }

    /// Attaches all programs, without `sockets` those at links alone, in a network namespace. Where an older generation's are still attached to the
    /// cgroup, what one has led is none of the other's business any more.
    pub fn attach(
        &mut self,
        sockets: bool,
        cgroup: &File,
        namespace: &File,
        pins: &Pins,
    ) -> Result<(), BpfError> {
        for (name, _) in PROGRAMS.iter().filter(|_| sockets) {
            let program = socket_program(&mut self.ebpf, name)?;
            // A link stands beside others' whatever the mode, and the kernel takes it with none alone.
            program.attach(cgroup, CgroupAttachMode::Single).map_err(|why| refused(name, why))?;
            self.ids.push(program.info().map_err(|why| refused(name, why))?.id());
        }
        self.attach_to_links(namespace, pins)
    }

    fn attach_to_links(&mut self, namespace: &File, pins: &Pins) -> Result<(), BpfError> {
        let (ebpf, links) = (&mut self.ebpf, &self.facts.links);
        let mut attached = Vec::new();
        if !links.is_empty() {
            let found = within([namespace], || {
                links
                    .iter()
                    .filter_map(|link| number(link).map(|index| (link, index)))
                    .map(|(link, index)| attach_to(link, index, ebpf, pins).map(|()| index))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            attached = found.concat();
        }
        pins.keep_links(&AT_LINKS.map(|(name, ..)| name), &attached)
    }

    /// Whether all programs are still attached.
    pub fn is_attached(&self, cgroup: &File, namespace: &File) -> Result<bool, BpfError> {
        for ((_, hook), id) in PROGRAMS.iter().zip(&self.ids) {
            if !attached(&Hooked::Cgroup(cgroup), *hook).map_err(BpfError::Query)?.contains(id) {
                return Ok(false);
            }
        }
        if self.ids.len() != PROGRAMS.len() {
            return Ok(false);
        }
        if self.facts.links.is_empty() {
            return Ok(true);
        }
        let found = within([namespace], || {
            for (link, (name, _, hook)) in self.facts.links.iter().flat_map(|l| AT_LINKS.map(|p| (l, p))) {
                let Some(Program::SchedClassifier(program)) = self.ebpf.program(name) else {
                    return Ok(false);
                };
                let id = program.info().map_err(|why| refused(name, why))?.id();
                if !attached(&Hooked::Link(link), hook).map_err(BpfError::Query)?.contains(&id) {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found == [true])
    }

    /// Puts a frontend in the place of what its key has.
    pub fn set(&mut self, frontend: &Arc<Frontend>) -> Result<(), Refusal> {
        let old = self.standing.get(&frontend.key).cloned();
        if old.is_none() && self.standing.len() >= self.room.0 {
            return Err(Refusal::Full);
        }
        let standing = old.as_ref();
        let inside = self.lay(&frontend.target, standing.map(|s| (&s.frontend.target, s.value.inside)))?;
        let absent = Target::Drop;
        let before = standing.map(|s| (s.frontend.outside.as_ref().unwrap_or(&absent), s.value.outside));
        let outside = self.lay(frontend.outside.as_ref().unwrap_or(&absent), before)?;
        let hashes = self.hash(frontend, standing)?;
        let id = match standing.filter(|s| s.frontend.sources == frontend.sources) {
            Some(standing) => standing.value.id,
            None => self.admit(frontend.sources.as_ref())?,
        };
        let value = value(frontend, (inside, outside, hashes), id);
        // What it leads to stands.
        let key = Key::from(frontend.key);
        self.frontends.insert(key, value, 0).map_err(BpfError::map("frontends"))?;
        if let Some(old) = &old {
            self.retire(old, Some(&value));
        } else if frontend.class == Class::ClusterIp {
            self.count(frontend.key.address, true)?;
        }
        if let Some(old) = old.filter(|o| o.frontend.class != frontend.class) {
            // A key that another kind of address has taken over.
            self.count(frontend.key.address, old.frontend.class == Class::External)?;
        }
        self.standing.insert(frontend.key, Standing { frontend: frontend.clone(), value });
        Ok(())
    }

    /// Removes a frontend.
    pub fn remove(&mut self, key: &FrontendKey) -> Result<(), BpfError> {
        let Some(old) = self.standing.remove(key) else { return Ok(()) };
        self.frontends.remove(&Key::from(*key)).map_err(BpfError::map("frontends"))?;
        self.retire(&old, None);
        if old.frontend.class == Class::ClusterIp {
            self.count(key.address, false)?;
        }
        Ok(())
    }

    /// Deletes what no frontend leads to any more, as soon as no program can be on its way there.
    pub fn tidy(&mut self) -> Result<(), BpfError> {
        for (id, ranges) in std::mem::take(&mut self.stale) {
            for range in &*ranges {
                self.sources.remove(&prefix(id, range)).map_err(BpfError::map("sources"))?;
            }
            self.prefixes -= ranges.len();
        }
        if self.ranges.crowded() || self.tables.crowded() {
            self.wait_for_readers();
        }
        Ok(())
    }

    /// Frees places once every program that runs now is done: programs are readers of RCU, and the kernel's global
    /// membarrier waits for all of those (membarrier(2)). Where it has none (nohz_full), places stay held and the
    /// maps are made anew when they are full.
    fn wait_for_readers(&mut self) {
        if membarrier(MembarrierCommand::Global).is_ok() {
            self.ranges.release();
            self.tables.release();
        }
    }

    /// A run with the table that flows from outside are led by.
    fn hash(&mut self, frontend: &Frontend, old: Option<&Standing>) -> Result<Range, Refusal> {
        let slots = from_outside(frontend);
        if self.facts.links.is_empty() {
            return Ok(Range::default());
        }
        if let Some(old) = old.filter(|o| from_outside(&o.frontend) == slots) {
            return Ok(old.value.hashes);
        }
        let count = u32::try_from(maglev::length(slots.len())).map_err(|_| Refusal::Full)?;
        let mut range = self.tables.take(count);
        if range.is_none() {
            self.wait_for_readers();
            range = self.tables.take(count);
        }
        let range = range.ok_or(Refusal::Full)?;
        if range.count > 0 {
            for (index, slot) in (range.base..).zip(maglev::table(slots)) {
                self.hashes.set(index, slot, 0).map_err(BpfError::map("hashes"))?;
            }
        }
        Ok(range)
    }

    /// A run with a target's backends: the old one where they are the same.
    fn lay(&mut self, target: &Target, old: Option<(&Target, Range)>) -> Result<Range, Refusal> {
        if let Some((old, range)) = old
            && old.backends() == target.backends()
        {
            return Ok(range);
        }
        let count = u32::try_from(target.backends().len()).map_err(|_| Refusal::Full)?;
        let mut range = self.ranges.take(count);
        if range.is_none() {
            self.wait_for_readers();
            range = self.ranges.take(count);
        }
        let range = range.ok_or(Refusal::Full)?;
        for (index, backend) in (range.base..).zip(target.backends()) {
            self.backends.set(index, Place::from(*backend), 0).map_err(BpfError::map("backends"))?;
        }
        Ok(range)
    }

    /// Writes source ranges under an id of their own.
    fn admit(&mut self, sources: Option<&Arc<[Cidr]>>) -> Result<u32, Refusal> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let ranges = sources.map_or(&[][..], |s| s);
        if self.prefixes + ranges.len() > self.room.1 {
            return Err(Refusal::Full);
        }
        for range in ranges {
            self.sources.insert(&prefix(id, range), 1, 0).map_err(BpfError::map("sources"))?;
        }
        self.prefixes += ranges.len();
        Ok(id)
    }

    /// Gives back what a frontend had and has no more.
    fn retire(&mut self, old: &Standing, new: Option<&Value>) {
        if new.is_none_or(|n| n.inside != old.value.inside) {
            self.ranges.give(old.value.inside);
        }
        if new.is_none_or(|n| n.outside != old.value.outside) {
            self.ranges.give(old.value.outside);
        }
        if new.is_none_or(|n| n.hashes != old.value.hashes) {
            self.tables.give(old.value.hashes);
        }
        if let Some(sources) = &old.frontend.sources
            && new.is_none_or(|n| n.id != old.value.id)
        {
            self.stale.push((old.value.id, sources.clone()));
        }
    }

    /// Counts the frontends of a cluster address, whose other ports are refused while it has any.
    fn count(&mut self, address: IpAddr, more: bool) -> Result<(), BpfError> {
        let count = self.addresses.entry(address).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let (key, count) = (raw::address(address), *count);
        if count == 0 {
            self.addresses.remove(&address);
        }
        if self.facts.own.contains(&address) {
            return Ok(());
        }
        match count {
            0 => self.cluster.remove(&key).map_err(BpfError::map("cluster")),
            1 if more => self.cluster.insert(key, 1, 0).map_err(BpfError::map("cluster")),
            _ => Ok(()),
        }
    }

    /// The backends of a run.
    pub fn places(&self, range: Range) -> Result<Vec<Backend>, BpfError> {
        let end = range.base.checked_add(range.count).ok_or(BpfError::Foreign("frontends"))?;
        let read = |index| Ok(self.backends.get(&index, 0).map_err(BpfError::map("backends"))?.backend());
        (range.base..end).map(read).collect()
    }
}

fn value(frontend: &Frontend, (inside, outside, hashes): (Range, Range, Range), id: u32) -> Value {
    let kind = |target: Option<&Target>| match target {
        Some(Target::Balance(_)) => target::BALANCE,
        Some(Target::Reject) => target::REJECT,
        Some(Target::Drop) => target::DROP,
        None => target::ABSENT,
    };
    let flags = [
        (frontend.affinity.is_some(), flag::AFFINITY),
        (frontend.sources.is_some(), flag::SOURCES),
        (frontend.class == Class::ClusterIp, flag::CLUSTER),
    ];
    Value {
        inside,
        outside,
        hashes,
        id,
        affinity: frontend.affinity.unwrap_or(0),
        target: kind(Some(&frontend.target)),
        outside_target: kind(frontend.outside.as_ref()),
        masquerade: match frontend.masquerade {
            Masquerade::Never => 0,
            Masquerade::OffCluster => 1,
            Masquerade::Always => 2,
        },
        flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum(),
    }
}

/// The id counts in full, and of the address what the range's prefix covers, in an IPv6 address's bits.
fn prefix(id: u32, range: &Cidr) -> Prefix<Source> {
    let mapped = if range.network().is_ipv4() { 96 } else { 0 };
    let bits = 32 + mapped + u32::from(range.bits());
    Prefix::new(bits, Source { id, address: raw::address(range.network()) })
}

fn socket_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSockAddr, BpfError> {
    let program = ebpf.program_mut(name).ok_or(BpfError::Foreign(name))?;
    program.try_into().map_err(|why| refused(name, why))
}

fn link_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, BpfError> {
    let program = ebpf.program_mut(name).ok_or(BpfError::Foreign(name))?;
    program.try_into().map_err(|why| refused(name, why))
}

/// Attaches the programs at links to one, by its number, of the calling thread's namespace: they take the place of those
/// that an older generation, or process, has there, between two packets.
fn attach_to(link: &str, index: u32, ebpf: &mut Ebpf, pins: &Pins) -> Result<(), BpfError> {
    for (name, side, _) in AT_LINKS {
        let program = link_program(ebpf, name)?;
        let path = pins.link(name, index);
        // A link that was deleted has none any more: its number is nobody's but in another namespace's folder.
        if take_over(program, &path).is_some() {
            continue;
        }
        match std::fs::remove_file(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                return Err(BpfError::File { path, why });
            }
            _ => {}
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(link, side, options).map_err(|why| refused(name, why))?;
        let attached = program.take_link(id).map_err(|why| refused(name, why))?;
        let fail = |why: &dyn std::error::Error| BpfError::Pin { path: path.clone(), why: why.to_string() };
        let attached = FdLink::try_from(attached).map_err(|why| fail(&why))?;
        attached.pin(&path).map_err(|why| fail(&why))?;
    }
    Ok(())
}

/// Puts a program into the place of what is attached already, where there is something.
fn take_over(program: &mut SchedClassifier, path: &Path) -> Option<()> {
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    let id = program.attach_to_link(SchedClassifierLink::try_from(link).ok()?).ok()?;
    // It stays by its name, not by our descriptor.
    program.take_link(id).ok().map(drop)
}

fn refused(name: &'static str, why: ProgramError) -> BpfError {
    BpfError::Program { name, why: Box::new(why) }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError> {
    let map = ebpf.take_map(name).ok_or(BpfError::Foreign(name))?;
    M::try_from(map).map_err(BpfError::map(name))
}
