//! The patterns as the kernel follows them: see `exporter_ebpf::http::pattern`.

use std::collections::{BTreeMap, HashMap};

use exporter_ebpf::http::{
    RouteLine,
    pattern::{
        self, BEYOND, HOST, Literal, Literals as _, MAX_PATTERNS, NONE, Patterns, Place, Segment as Bytes,
        Set, slots,
    },
    route::{Hash, Route, Sink, Text},
};

use super::{Pattern, Rule, Scope, pattern::Segment};
use crate::cgroup::tree::Workload;

/// The rules, compiled.
pub struct Table {
    /// What the kernel is told of the patterns.
    pub patterns: Box<Patterns>,
    /// What the kernel is told of their literals; a power of two of them.
    pub literals: Vec<Literal>,
    /// How many patterns there are.
    pub len: u32,
    /// The patterns that are not every container's, by their number.
    scopes: Vec<(usize, Scope)>,
    /// The texts of the routes, by hash.
    names: HashMap<u64, String>,
}

impl Table {
    /// Compiles the rules; those beyond what [`super::check`] allows are left out.
    pub fn new(rules: &[Rule]) -> Self {
        let mut rules: Vec<_> = rules.iter().take(MAX_PATTERNS).collect();
        // Two that match the same target have the same segments up to where they are of different kinds.
        rules.sort_by_key(|rule| rule.pattern.segments().iter().map(Segment::rank).collect::<Vec<_>>());
        let mut patterns =
            Box::new(Patterns { everyone: NONE, places: [Place::EMPTY; _], routes: [0; MAX_PATTERNS] });
        for (at, place) in patterns.places[..BEYOND].iter_mut().enumerate() {
            place.next = at as u64 + 1;
        }
        let mut literals = BTreeMap::new();
        let (mut scopes, mut names) = (Vec::new(), HashMap::new());
        for (number, rule) in rules.iter().enumerate() {
            match &rule.scope {
                Some(scope) => scopes.push((number, scope.clone())),
                None => insert(&mut patterns.everyone, number),
            }
            add(&mut patterns, &mut literals, number, &rule.pattern);
            patterns.routes[number] = hash(rule.pattern.as_str());
            names.insert(patterns.routes[number], rule.pattern.as_str().to_owned());
        }
        let len = rules.len() as u32;
        Self { patterns, literals: spread(&literals), len, scopes, names }
    }

    /// How many patterns are not every container's.
    pub fn scoped(&self) -> u32 {
        self.scopes.len() as u32
    }

    /// The patterns of a workload.
    pub fn own(&self, workload: &Workload) -> Set {
        let mut own = self.patterns.everyone;
        for (number, _) in self.scopes.iter().filter(|(_, scope)| scope.has(workload)) {
            insert(&mut own, *number);
        }
        own
    }

    /// The text of a route that a pattern makes.
    pub fn name(&self, route: u64) -> Option<&str> {
        self.names.get(&route).map(String::as_str)
    }

    /// What the kernel finds: the pattern of a request line, of which `available` bytes are there, in a container with its
    /// `own` patterns.
    pub fn find(&self, own: Set, line: &RouteLine, available: u32) -> Option<&str> {
        let route =
            pattern::matched(&self.patterns, &*self.literals, own, line, line.target as usize, available, 0);
        self.name(route)
    }
}

fn insert(set: &mut Set, number: usize) {
    set[number / 64] |= 1 << (number % 64);
}

/// Tells the places about a pattern, and collects its literals by their keys.
fn add(patterns: &mut Patterns, literals: &mut BTreeMap<u64, Set>, number: usize, pattern: &Pattern) {
    insert(&mut patterns.places[HOST].any, number);
    patterns.places[HOST].next = 0;
    let segments = pattern.segments();
    for (place, segment) in segments.iter().enumerate() {
        match segment {
            Segment::Literal(text) => {
                let key = text.bytes().fold(Bytes::EMPTY, Bytes::and).key(place as u64);
                insert(literals.entry(key).or_insert(NONE), number);
            }
            Segment::Any => insert(&mut patterns.places[place].any, number),
            Segment::Rest => {
                for later in &mut patterns.places[place..=BEYOND] {
                    insert(&mut later.any, number);
                    insert(&mut later.rest, number);
                }
                for later in &mut patterns.places[place + 1..=BEYOND] {
                    insert(&mut later.end, number);
                }
            }
        }
    }
    insert(&mut patterns.places[segments.len()].end, number);
}

/// Gives each literal one of its two slots; one that is in the way moves to its other. As few slots as will do.
fn spread(literals: &BTreeMap<u64, Set>) -> Vec<Literal> {
    const FREE: Literal = Literal { key: 0, patterns: NONE };
    let mut len = (2 * literals.len()).next_power_of_two();
    'more: loop {
        let mut table = vec![FREE; len];
        len *= 2;
        for (&key, &patterns) in literals {
            let mut literal = Literal { key, patterns };
            let mut slot = slots(key, (&*table).mask())[0];
            // Whoever moves more often than there are others moves in a circle.
            let mut moves = literals.len();
            loop {
                std::mem::swap(&mut literal, &mut table[slot as usize]);
                if literal == FREE {
                    break;
                }
                if moves == 0 {
                    continue 'more;
                }
                moves -= 1;
                let [one, other] = slots(literal.key, (&*table).mask());
                slot = if slot == one { other } else { one };
            }
        }
        return table;
    }
}

/// The hash of the route of a pattern. Where the normaliser makes the same text of a target that the pattern does not match,
/// because it is cut off or another container's, it is the same route; else it is one that the normaliser never makes.
fn hash(text: &str) -> u64 {
    if normal(text, Text::new()).as_str() == text {
        return normal(text, Hash::new()).value();
    }
    let mut hash = Hash::new();
    text.bytes().for_each(|byte| hash.byte(byte));
    hash.value()
}

fn normal<S: Sink>(text: &str, sink: S) -> S {
    let mut route = Route::new(sink);
    let _ended = text.bytes().all(|byte| route.push(byte));
    route.finish(false)
}
