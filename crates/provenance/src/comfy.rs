//! ComfyUI's graph: which texts lead to the sampler, and which images differ in their seed only.
//!
//! `{"<id>": {"class_type": …, "inputs": {key: value or ["<id>", slot]}}}`. From each node that samples, links are followed
//! to the nodes that hold texts. Each node is visited once for each side, so that a hostile graph costs no more than its
//! size.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::container::Found;
use crate::json;
use crate::{Finding, filled};

/// Inputs of an encoder that hold its text, in the order of what they are worth.
const TEXTS: [&str; 6] = ["text", "positive", "t5xxl", "clip_l", "prompt", "text_g"];

/// A node that gives nothing of what goes into it.
const ZERO: &str = "ConditioningZeroOut";

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Positive,
    Negative,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Negative => "negative",
        }
    }
}

struct Graph<'a>(BTreeMap<&'a str, (&'a str, &'a Map<String, Value>)>);

/// What the graph says, if the file holds one.
pub(crate) fn in_texts(found: &mut Found) -> Option<Finding> {
    let value = json::keyed(found, "prompt")?;
    let nodes = value.as_object()?.iter().filter_map(|(id, node)| {
        Some((id.as_str(), (node.get("class_type")?.as_str()?, node.get("inputs")?.as_object()?)))
    });
    let graph = Graph(nodes.collect());
    if graph.0.is_empty() {
        return None;
    }
    let [prompts, negatives] = [Side::Positive, Side::Negative].map(|side| graph.texts(side));
    Some(Finding {
        is_ambiguous: prompts.len() > 1,
        prompt: only(prompts),
        negative_prompt: only(negatives),
        seed: only(graph.values(&["seed", "noise_seed"])),
        model: only(graph.values(&["ckpt_name", "unet_name"])),
        sampler: only(graph.values(&["sampler_name"])),
        group_id: Some(graph.group_id()),
        ..Finding::of("ComfyUI")
    })
}

/// The value, if there is one and no other.
fn only(mut values: BTreeSet<String>) -> Option<String> {
    if values.len() == 1 { values.pop_first() } else { None }
}

/// The node and the slot that a value links to.
fn link(value: &Value) -> Option<(&str, u64)> {
    match value.as_array()?.as_slice() {
        [Value::String(id), slot] => Some((id, slot.as_u64()?)),
        _ => None,
    }
}

/// A link to follow, and what is looked for behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    /// The encoder of a side.
    Encoder(Side),
    /// The text that a node hands over.
    Text,
}

/// Links that are still to be followed, and the texts found.
#[derive(Default)]
struct Search<'a> {
    open: Vec<((&'a str, u64), Wanted)>,
    texts: BTreeSet<String>,
}

impl<'a> Search<'a> {
    /// Takes a text, or puts a link to one on the list.
    fn take(&mut self, value: &'a Value, wanted: Wanted) {
        match value {
            Value::String(text) => self.texts.extend(filled(text)),
            value => self.open.extend(link(value).map(|to| (to, wanted))),
        }
    }

    /// What a node passes on to an encoder's side, or encodes.
    fn encoder(&mut self, class: &str, inputs: &'a Map<String, Value>, slot: u64, side: Side) {
        // A node that passes both sides on has the positive one at slot 0 and the negative one at slot 1.
        if let (Some(positive), Some(negative)) = (inputs.get("positive"), inputs.get("negative")) {
            let side = match (link(positive), link(negative), slot) {
                (Some(_), Some(_), 0) => Side::Positive,
                (Some(_), Some(_), 1) => Side::Negative,
                _ => side,
            };
            let value = if side == Side::Positive { positive } else { negative };
            return self.take(value, Wanted::Encoder(side));
        }
        if let Some(value) = TEXTS.iter().find_map(|key| inputs.get(*key)) {
            return self.take(value, Wanted::Text);
        }
        let is_passed_on = |key: &str| key.contains("cond") || class == "Reroute";
        for (_, value) in inputs.iter().filter(|(key, value)| is_passed_on(key) && link(value).is_some()) {
            self.take(value, Wanted::Encoder(side));
        }
    }

    /// The text of a node that has one text and no other. A node that makes a text of several is not guessed at.
    fn text(&mut self, inputs: &'a Map<String, Value>) {
        let mut texts = inputs.values().filter(|value| value.is_string() || link(value).is_some());
        if let (Some(only), None) = (texts.next(), texts.next()) {
            self.take(only, Wanted::Text);
        }
    }
}

impl<'a> Graph<'a> {
    /// The texts that lead to `side` of any node that samples.
    fn texts(&self, side: Side) -> BTreeSet<String> {
        let mut search = Search::default();
        for (_, inputs) in self.0.values() {
            let has = |keys: &[&str]| keys.iter().all(|key| inputs.contains_key(*key));
            let is_whole = has(&["sampler_name", "steps", "cfg"]) || has(&["positive", "sigmas"]);
            // A sampler of parts has its texts behind its guider, which has both sides or one conditioning.
            let guider = inputs.get("guider").filter(|_| has(&["sigmas"])).and_then(link);
            let guider = guider.and_then(|(id, _)| self.0.get(id)).map(|(_, inputs)| *inputs);
            let of_one = guider.and_then(|inputs| inputs.get("conditioning")).filter(|_| side == Side::Positive);
            let of_two = is_whole.then_some(*inputs).or(guider).and_then(|inputs| inputs.get(side.name()));
            if let Some(value) = of_one.or(of_two) {
                search.take(value, Wanted::Encoder(side));
            }
        }
        let mut seen = HashSet::new();
        while let Some(((id, slot), wanted)) = search.open.pop() {
            let Some((class, inputs)) = self.0.get(id).filter(|(class, _)| *class != ZERO) else { continue };
            match wanted {
                _ if !seen.insert((id, wanted)) => {}
                Wanted::Encoder(side) => search.encoder(class, inputs, slot, side),
                Wanted::Text => search.text(inputs),
            }
        }
        search.texts
    }

    /// The values of inputs called `keys` anywhere in the graph. A link is followed to the first value of its node.
    fn values(&self, keys: &[&str]) -> BTreeSet<String> {
        let mut values = BTreeSet::new();
        for (_, inputs) in self.0.values() {
            for value in keys.iter().filter_map(|key| inputs.get(*key)) {
                let linked = link(value).and_then(|(id, _)| self.0.get(id)).map(|(_, inputs)| inputs);
                let of_link = linked.and_then(|inputs| keys.iter().chain(&["value"]).find_map(|key| inputs.get(*key)));
                values.extend(of_link.or(Some(value)).and_then(json::text));
            }
        }
        values
    }

    fn group_id(&self) -> String {
        let is_kept = |key: &str| !key.ends_with("seed") && key != "filename_prefix";
        // Sorted keys: the same graph has one form, whatever wrote it.
        let nodes: BTreeMap<&str, (&str, BTreeMap<&str, &Value>)> = self
            .0
            .iter()
            .map(|(id, (class, inputs))| {
                let kept = inputs.iter().filter(|(key, _)| is_kept(key));
                (*id, (*class, kept.map(|(key, value)| (key.as_str(), value)).collect()))
            })
            .collect();
        let bytes = serde_json::to_vec(&nodes).unwrap_or_default();
        blake3::hash(&bytes).to_hex()[..32].to_owned()
    }
}
