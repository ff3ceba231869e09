//! The modules of a crate, read from its source, and the files among them that know each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// What stands before a name that an item gives itself.
const NAMES: [&str; 8] = ["const", "enum", "fn", "static", "struct", "trait", "type", "union"];

/// Names from the left to the right: `["crate", "a", "B"]`.
type Names = Vec<String>;

/// Gives a file's text, where there is such a file.
type Source<'a> = &'a dyn Fn(&Path) -> Option<String>;

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The items that stand in it.
    items: BTreeSet<String>,
    /// What `use` brings in, whoever may see it: name to path.
    uses: BTreeMap<String, Names>,
    globs: BTreeSet<Names>,
    /// All paths that are written in it.
    paths: BTreeSet<Names>,
}

/// The modules below one root (`lib.rs`, `main.rs`), by their paths. Modules for tests are left out.
pub struct Modules<'a> {
    source: Source<'a>,
    all: BTreeMap<Names, Module>,
}

impl<'a> Modules<'a> {
    /// Reads `root` and all files that its `mod` lines name.
    pub fn read(root: &Path, source: Source<'a>) -> Self {
        let mut modules = Modules { source, all: BTreeMap::new() };
        modules.file(Names::new(), root.to_owned(), root.parent().unwrap());
        modules
    }

    /// `below` is where its children's files are.
    fn file(&mut self, path: Names, file: PathBuf, below: &Path) {
        let text = (self.source)(&file).unwrap_or_else(|| panic!("{} cannot be read", file.display()));
        let tokens = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.module(path, file, below, tokens);
    }

    fn module(&mut self, path: Names, file: PathBuf, below: &Path, tokens: TokenStream) {
        let mut module = Module { file: file.clone(), ..Module::default() };
        let children = module.take(tokens, true);
        self.all.insert(path.clone(), module);
        for (name, body) in children {
            let (below, mut path) = (below.join(&name), path.clone());
            path.push(name);
            match body {
                Some(body) => self.module(path, file.clone(), &below, body),
                None => {
                    let own = below.with_extension("rs");
                    let in_folder = below.join("mod.rs");
                    let file = if (self.source)(&own).is_some() { own } else { in_folder };
                    self.file(path, file, &below);
                }
            }
        }
    }

    /// Where a path that is written in module `at` leads: the modules that hand its name on, and the one where it
    /// stands. Nowhere: another crate.
    fn lead(&self, at: &Names, path: &[String]) -> Vec<(&Names, String)> {
        let (mut here, mut rest, mut relative) = (at.clone(), path, true);
        while let [first, more @ ..] = rest {
            match first.as_str() {
                "crate" => here.clear(),
                "super" => drop(here.pop()),
                "self" => {}
                _ => break,
            }
            (rest, relative) = (more, false);
        }
        while let [name, more @ ..] = rest {
            let mut child = here.clone();
            child.push(name.clone());
            if self.all.contains_key(&child) {
                (here, rest, relative) = (child, more, false);
                continue;
            }
            let (path, module) = self.all.get_key_value(&here).unwrap();
            if module.items.contains(name) {
                return vec![(path, name.clone())];
            }
            let handed = (path != at).then(|| (path, name.clone()));
            return match self.brought(path, name) {
                Some(mut to) => {
                    to.extend_from_slice(more);
                    handed.into_iter().chain(self.lead(path, &to)).collect()
                }
                // Made by a macro, or another crate's name.
                None => handed.filter(|_| !relative).into_iter().collect(),
            };
        }
        let (path, _) = self.all.get_key_value(&here).unwrap();
        vec![(path, here.last().map_or("crate", |name| name).to_owned())]
    }

    /// The path by which a `use` in module `at` brings in a name. One that begins with the name itself is a crate's.
    fn brought(&self, at: &Names, name: &String) -> Option<Names> {
        let module = &self.all[at];
        if let Some(to) = module.uses.get(name) {
            return Some(to.clone()).filter(|to| to.first() != Some(name));
        }
        let has = |glob: &&Names| {
            let lead = self.lead(at, glob);
            lead.last().is_some_and(|(module, _)| self.all[*module].items.contains(name))
        };
        let mut to = module.globs.iter().find(has)?.clone();
        to.push(name.clone());
        Some(to)
    }

    /// File to file, and the names that the first takes from the second. What a parent takes from the modules below
    /// it is none: it is made of them.
    fn arrows(&self) -> BTreeMap<(&Path, &Path), BTreeSet<String>> {
        let mut files: BTreeMap<&Path, &Names> = BTreeMap::new();
        for (path, module) in &self.all {
            // A file's own module comes before those inside it.
            files.entry(&module.file).or_insert(path);
        }
        let mut arrows: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (at, module) in &self.all {
            for (to, name) in module.paths.iter().flat_map(|path| self.lead(at, path)) {
                let (from, to) = (module.file.as_path(), self.all[to].file.as_path());
                if !files[to].starts_with(files[from]) {
                    arrows.entry((from, to)).or_default().insert(name);
                }
            }
        }
        arrows
    }

    /// The arrows that lie on a circle, as lines.
    pub fn circles(&self) -> Vec<String> {
        let arrows = self.arrows();
        let reaches = |from: &Path, to: &Path| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(at) = next.pop() {
                let fresh = arrows.keys().filter(|(a, _)| *a == at).map(|(_, b)| *b);
                next.extend(fresh.filter(|b| seen.insert(*b)));
            }
            seen.contains(to)
        };
        let on_circle = arrows.iter().filter(|((from, to), _)| reaches(to, from));
        on_circle
            .map(|((from, to), names)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                format!("{} -> {}: {}", from.display(), to.display(), names.join(", "))
            })
            .collect()
    }

    /// How many modules there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

fn is(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == mark)
}

fn is_path_mark(list: &[TokenTree]) -> bool {
    matches!(list.first(), Some(TokenTree::Punct(p)) if p.as_char() == ':' && p.spacing() == Spacing::Joint)
        && is(list.get(1), ':')
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(g)) if g.delimiter() == delimiter => Some(g.stream()),
        _ => None,
    }
}

/// A stream without the items that are for tests.
fn product(tokens: TokenStream) -> Vec<TokenTree> {
    let mut list: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let attribute = is(Some(&token), '#').then(|| group(tokens.peek(), Delimiter::Bracket)).flatten();
        if attribute.is_none_or(|a| a.to_string().replace(' ', "") != "cfg(test)") {
            list.push(token);
            continue;
        }
        let ends = |t: &TokenTree| is(Some(t), ';') || group(Some(t), Delimiter::Brace).is_some();
        tokens.by_ref().find(ends);
        tokens.next_if(|t| is(Some(t), ';'));
    }
    list
}

impl Module {
    /// Takes in what a stream says; the modules in it by name, with their bodies where they stand here.
    fn take(&mut self, tokens: TokenStream, is_top: bool) -> Vec<(String, Option<TokenStream>)> {
        let list = product(tokens);
        let mut children = Vec::new();
        let mut at = 0;
        while at < list.len() {
            let (word, next) = (ident(list.get(at)).unwrap_or_default(), ident(list.get(at + 1)));
            match (word.as_str(), next) {
                ("use", Some(_)) => {
                    let end = list[at..].iter().position(|t| is(Some(t), ';')).map_or(list.len(), |n| at + n);
                    self.bring(&[], &list[at + 1..end]);
                    at = end;
                }
                ("mod", Some(name)) if is_top => {
                    children.push((name, group(list.get(at + 2), Delimiter::Brace)));
                    at += 2;
                }
                ("macro_rules", None) => self.items.extend(ident(list.get(at + 2))),
                (word, Some(name)) if is_top && NAMES.contains(&word) => drop(self.items.insert(name)),
                _ => at += self.expression(&list[at..]),
            }
            at += 1;
        }
        children
    }

    /// A path, a group, or anything else at the beginning of `list`; how many tokens more than one it has.
    fn expression(&mut self, list: &[TokenTree]) -> usize {
        if let Some(TokenTree::Group(inner)) = list.first() {
            self.take(inner.stream(), false);
        }
        // `::name` goes on from a type, or begins at another crate.
        let goes_on = is_path_mark(list);
        let start = if goes_on { 2 } else { 0 };
        let Some(first) = ident(list.get(start)) else { return 0 };
        let (mut path, mut end) = (vec![first], start);
        while let [_, rest @ ..] = &list[end..]
            && is_path_mark(rest)
            && let Some(name) = ident(rest.get(2))
        {
            path.push(name);
            end += 3;
        }
        if !goes_on && path.len() > 1 {
            self.paths.insert(path);
        }
        end
    }

    /// The trees of a `use`.
    fn bring(&mut self, before: &[String], trees: &[TokenTree]) {
        for tree in trees.split(|t| is(Some(t), ',')).filter(|tree| !tree.is_empty()) {
            let names = tree.iter().filter_map(|t| ident(Some(t)));
            let mut path: Names = before.iter().cloned().chain(names).collect();
            if let Some(inner) = group(tree.last(), Delimiter::Brace) {
                self.bring(&path, &inner.into_iter().collect::<Vec<_>>());
            } else if is(tree.last(), '*') {
                self.globs.insert(path.clone());
                self.paths.insert(path);
            } else {
                let alias = path.iter().position(|name| name == "as").map(|n| path.split_off(n));
                path.pop_if(|name| name == "self");
                let name = alias.and_then(|mut a| a.pop()).or_else(|| path.last().cloned());
                self.paths.insert(path.clone());
                self.uses.extend(name.map(|name| (name, path)));
            }
        }
    }
}
