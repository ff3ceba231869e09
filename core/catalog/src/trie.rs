//! [`Trie`]: a persistent hash map. Copies share structure; a change costs a path from the root to one leaf.
//!
//! Leaves hold up to [`LEAF`] entries side by side, so that an entry costs little more than itself: with a node for
//! each entry a hundred thousand addresses take three times as much.

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Entries of a leaf, before it is split.
const LEAF: usize = 32;
/// Hash bits of one branch, and its children.
const BITS: u32 = 3;
const CHILDREN: usize = 1 << BITS;
/// Deeper there are no bits left: there leaves grow.
const DEEPEST: u32 = u64::BITS / BITS;

#[derive(Clone, Debug)]
struct Item<K, V> {
    /// The upper half of the key's hash.
    tag: u32,
    key: K,
    value: V,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    /// By tag.
    Leaf(Box<[Item<K, V>]>),
    Branch(Box<[Arc<Node<K, V>>; CHILDREN]>),
}

/// A map from `K` to `V`, cheap to copy.
#[derive(Clone, Debug)]
pub(crate) struct Trie<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// The same each time: with SipHash nobody finds names in number whose 64 bits are alike.
fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn child(hash: u64, depth: u32) -> usize {
    (hash >> (depth * BITS)) as usize % CHILDREN
}

impl<K, V> Node<K, V> {
    fn empty() -> Self {
        Node::Leaf(Box::default())
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Trie { root: Arc::new(Node::empty()), len: 0 }
    }
}

/// Where a key is in a leaf, or where it would be.
fn place<K, V, Q>(items: &[Item<K, V>], tag: u32, key: &Q) -> Result<usize, usize>
where
    K: Borrow<Q>,
    Q: Eq + ?Sized,
{
    let first = items.partition_point(|item| item.tag < tag);
    let same = items[first..].iter().take_while(|item| item.tag == tag);
    same.enumerate().find(|(_, item)| item.key.borrow() == key).map(|(at, _)| first + at).ok_or(first)
}

impl<K: Clone + Eq + Hash, V: Clone> Trie<K, V> {
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = hash(key);
        let (mut node, mut depth) = (&*self.root, 0);
        loop {
            match node {
                Node::Branch(children) => (node, depth) = (&children[child(hash, depth)], depth + 1),
                Node::Leaf(items) => {
                    return place(items, tag(hash), key).ok().map(|at| &items[at].value);
                }
            }
        }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = hash(&key);
        self.len += usize::from(insert(Arc::make_mut(&mut self.root), 0, hash, key, value));
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if self.get(key).is_some() {
            remove(Arc::make_mut(&mut self.root), 0, hash(key), key);
            self.len -= 1;
        }
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        Iter { nodes: vec![&*self.root], items: [].iter() }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// Whether there is one more now.
fn insert<K: Clone + Eq + Hash, V: Clone>(
    node: &mut Node<K, V>,
    depth: u32,
    hash: u64,
    key: K,
    value: V,
) -> bool {
    match node {
        Node::Branch(children) => {
            let below = Arc::make_mut(&mut children[child(hash, depth)]);
            insert(below, depth + 1, hash, key, value)
        }
        Node::Leaf(items) => {
            let at = match place(items, tag(hash), &key) {
                Ok(at) => {
                    items[at].value = value;
                    return false;
                }
                Err(at) => at,
            };
            let mut grown = std::mem::take(items).into_vec();
            grown.reserve_exact(1);
            grown.insert(at, Item { tag: tag(hash), key, value });
            if grown.len() > LEAF && depth < DEEPEST {
                *node = split(grown, depth);
            } else {
                *items = grown.into_boxed_slice();
            }
            true
        }
    }
}

fn split<K: Hash, V>(items: Vec<Item<K, V>>, depth: u32) -> Node<K, V> {
    let mut parts: [Vec<Item<K, V>>; CHILDREN] = Default::default();
    for item in items {
        // In order, so that each part is by tag, too.
        parts[child(hash(&item.key), depth)].push(item);
    }
    Node::Branch(Box::new(parts.map(|part| Arc::new(Node::Leaf(part.into_boxed_slice())))))
}

/// Takes a key out that is there.
fn remove<K, V, Q>(node: &mut Node<K, V>, depth: u32, hash: u64, key: &Q)
where
    K: Clone + Borrow<Q>,
    V: Clone,
    Q: Eq + ?Sized,
{
    match node {
        Node::Leaf(items) => {
            if let Ok(at) = place(items, tag(hash), key) {
                let mut left = std::mem::take(items).into_vec();
                left.remove(at);
                *items = left.into_boxed_slice();
            }
        }
        Node::Branch(children) => {
            remove(Arc::make_mut(&mut children[child(hash, depth)]), depth + 1, hash, key);
            // Half of what splits a leaf: a key that comes and goes does not split and join each time.
            let mut sizes = children.iter().map(|child| match &**child {
                Node::Leaf(items) => Some(items.len()),
                Node::Branch(_) => None,
            });
            if sizes.try_fold(0, |sum, size| Some(sum + size?)).is_some_and(|sum| sum <= LEAF / 2) {
                let mut joined: Vec<Item<K, V>> = Vec::new();
                for child in children.iter() {
                    if let Node::Leaf(items) = &**child {
                        joined.extend_from_slice(items);
                    }
                }
                joined.sort_by_key(|item| item.tag);
                *node = Node::Leaf(joined.into_boxed_slice());
            }
        }
    }
}

/// All entries, in the order of nothing that means anything.
pub(crate) struct Iter<'a, K, V> {
    nodes: Vec<&'a Node<K, V>>,
    items: std::slice::Iter<'a, Item<K, V>>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.items.next() {
                return Some((&item.key, &item.value));
            }
            match self.nodes.pop()? {
                Node::Leaf(items) => self.items = items.iter(),
                Node::Branch(children) => self.nodes.extend(children.iter().map(|child| &**child)),
            }
        }
    }
}

/// The same entries, however they came.
impl<K: Clone + Eq + Hash, V: Clone + PartialEq> PartialEq for Trie<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
            || (self.len == other.len && self.iter().all(|(key, value)| other.get(key) == Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// All alike where it counts least: full leaves at the greatest depth.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Alike(u8);

    impl Hash for Alike {
        fn hash<H: Hasher>(&self, state: &mut H) {
            0u8.hash(state);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_copies_stay_as_they_are(
            ops in prop::collection::vec((any::<bool>(), 0u16..400, any::<u8>()), 0..1500)
        ) {
            let (mut trie, mut map) = (Trie::default(), HashMap::new());
            let mut copies = Vec::new();
            for (at, (put, key, value)) in ops.into_iter().enumerate() {
                if put {
                    trie.insert(key, value);
                    map.insert(key, value);
                } else {
                    trie.remove(&key);
                    map.remove(&key);
                }
                if at % 200 == 0 {
                    copies.push((trie.clone(), map.clone()));
                }
            }
            copies.push((trie, map));
            for (trie, map) in &copies {
                prop_assert_eq!(trie.len, map.len());
                prop_assert_eq!(&trie.iter().map(|(k, v)| (*k, *v)).collect::<HashMap<_, _>>(), map);
                prop_assert!((0..400).all(|key| trie.get(&key) == map.get(&key)));
                let mut again = Trie::default();
                map.iter().for_each(|(key, value)| again.insert(*key, *value));
                prop_assert!(*trie == again);
            }
        }
    }

    #[test]
    fn keys_of_one_hash_all_have_a_place() {
        let mut trie = Trie::default();
        (0..200).for_each(|n| trie.insert(Alike(n), n));
        assert!((0..200).all(|n| trie.get(&Alike(n)) == Some(&n)));
        (0..200).for_each(|n| trie.remove(&Alike(n)));
        assert_eq!((trie.len, trie.iter().count()), (0, 0));
    }

    #[test]
    fn a_change_leaves_almost_all_shared() {
        let mut trie = Trie::default();
        (0..100_000u32).for_each(|n| trie.insert(n, n));
        let old = trie.clone();
        trie.insert(7, 0);
        fn nodes(node: &Arc<Node<u32, u32>>, out: &mut Vec<*const Node<u32, u32>>) {
            out.push(Arc::as_ptr(node));
            if let Node::Branch(children) = &**node {
                children.iter().for_each(|child| nodes(child, out));
            }
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        nodes(&old.root, &mut before);
        nodes(&trie.root, &mut after);
        before.sort_unstable();
        let new = after.iter().filter(|node| before.binary_search(node).is_err()).count();
        assert!(new <= 8, "{new} of {} nodes are new", after.len());
    }
}
