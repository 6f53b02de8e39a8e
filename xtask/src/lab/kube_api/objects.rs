//! What the fake API server keeps: nodes in memory, their history, and whom it lets in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::http;

/// Everything, behind one lock.
#[derive(Debug)]
pub(super) struct Objects {
    version: u64,
    nodes: BTreeMap<String, Value>,
    history: Vec<Entry>,
    /// Watches from before this version are told that it is gone.
    oldest: u64,
    /// Which node a pod runs on, by `namespace/name`.
    pub(super) pods: BTreeMap<String, String>,
    /// `None`: everybody may come in.
    pub(super) tokens: Option<BTreeSet<String>>,
    /// Verb and resource that no role grants.
    pub(super) refused: BTreeSet<(String, String)>,
    pub(super) delay: Duration,
    /// Watches of an earlier number end without a word.
    pub(super) watches: u64,
    /// Every request, as `verb resource name`.
    pub(super) requests: Vec<String>,
}

/// What a backup holds: versions and nodes, but no history.
#[derive(Debug)]
pub(super) struct Backup(u64, BTreeMap<String, Value>);

/// One change, as watches tell it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) version: u64,
    kind: &'static str,
    object: Value,
}

impl Entry {
    pub(super) fn line(&self) -> String {
        format!("{}\n", json!({"type": self.kind, "object": self.object}))
    }
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            version: 100,
            nodes: BTreeMap::new(),
            history: Vec::new(),
            oldest: 0,
            pods: BTreeMap::new(),
            tokens: None,
            refused: BTreeSet::new(),
            delay: Duration::ZERO,
            watches: 0,
            requests: Vec::new(),
        }
    }
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.get(name)
    }

    pub(super) fn add(&mut self, name: &str, cidrs: &[&str], filler: usize) {
        // Every node a second later than the one before it.
        let (minute, second) = (self.version / 60 % 60, self.version % 60);
        let mut node = json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "uid": format!("uid-{}", self.version),
                "creationTimestamp": format!("2026-01-01T00:{minute:02}:{second:02}Z"),
                "labels": {"kubernetes.io/hostname": name},
            },
            "spec": {},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                "images": [{"names": ["x".repeat(filler)], "sizeBytes": 1}],
            },
        });
        set_cidrs(&mut node, cidrs);
        self.put("ADDED", name, node);
    }

    pub(super) fn set_cidrs(&mut self, name: &str, cidrs: &[&str]) {
        self.change(name, |node| set_cidrs(node, cidrs));
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(mut node) = self.nodes.remove(name) else { return };
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push(Entry { version: self.version, kind: "DELETED", object: node });
    }

    /// Applies a change to a node; a change that changes nothing makes no version.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Option<&Value> {
        let before = self.nodes.get(name)?;
        let mut after = before.clone();
        change(&mut after);
        if after != *before {
            self.put("MODIFIED", name, after);
        }
        self.nodes.get(name)
    }

    fn put(&mut self, kind: &'static str, name: &str, mut node: Value) {
        self.version += 1;
        node["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.nodes.insert(name.to_owned(), node.clone());
        self.history.push(Entry { version: self.version, kind, object: node });
    }

    pub(super) fn back_up(&self) -> Backup {
        Backup(self.version, self.nodes.clone())
    }

    pub(super) fn restore(&mut self, Backup(version, nodes): Backup) {
        (self.version, self.oldest, self.nodes) = (version, version, nodes);
        self.history.clear();
    }

    /// Forgets the history: whoever has not seen it all must list anew.
    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.version += 1;
        self.oldest = self.version;
    }

    /// What happened after `version`; `None` if nobody knows any more.
    pub(super) fn since(&self, version: u64) -> Option<&[Entry]> {
        if version < self.oldest {
            return None;
        }
        let first = self.history.partition_point(|entry| entry.version <= version);
        Some(&self.history[first..])
    }

    /// What a watch from `version` on is told if nobody knows any more what happened then.
    pub(super) fn too_old(&self, version: u64) -> Option<Value> {
        let text = format!("too old resource version: {version} ({})", self.oldest);
        (version < self.oldest).then(|| http::status(410, "Expired", &text))
    }

    /// A page of the list behind `token`.
    pub(super) fn page(&self, limit: usize, token: Option<&str>) -> Result<Value, BadToken> {
        let (version, after) = match token {
            Some(token) => {
                let (version, after) = token.split_once('.').ok_or(BadToken::Nonsense)?;
                (version.parse().map_err(|_| BadToken::Nonsense)?, Some(after))
            }
            None => (self.version, None),
        };
        if version < self.oldest {
            return Err(BadToken::Old(format!("{}.{}", self.version, after.unwrap_or_default())));
        }
        let rest: Vec<_> =
            self.nodes.iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after)).collect();
        let page = &rest[..limit.min(rest.len())];
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let (Some((last, _)), true) = (page.last(), page.len() < rest.len()) {
            metadata["continue"] = format!("{version}.{last}").into();
            metadata["remainingItemCount"] = (rest.len() - page.len()).into();
        }
        let items: Vec<_> = page.iter().map(|(_, node)| as_item(node)).collect();
        Ok(json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

/// A token that continues no list.
#[derive(Debug)]
pub(super) enum BadToken {
    Nonsense,
    /// The history is gone; with this one the rest can be had as it is now.
    Old(String),
}

/// What everything in a list is, only the list says.
fn as_item(node: &Value) -> Value {
    let mut item = node.clone();
    if let Some(item) = item.as_object_mut() {
        item.remove("kind");
        item.remove("apiVersion");
    }
    item
}

fn set_cidrs(node: &mut Value, cidrs: &[&str]) {
    let Some(spec) = node["spec"].as_object_mut() else { return };
    spec.remove("podCIDR");
    spec.remove("podCIDRs");
    if let Some(first) = cidrs.first() {
        spec.insert("podCIDR".into(), (*first).into());
        spec.insert("podCIDRs".into(), json!(cidrs));
    }
}

/// A strategic merge patch of the status subresource: annotations and conditions, nothing else.
pub(super) fn patch_status(node: &mut Value, patch: &Value) {
    if let Some(annotations) = patch["metadata"]["annotations"].as_object() {
        let Some(metadata) = node["metadata"].as_object_mut() else { return };
        let there = metadata.entry("annotations").or_insert_with(|| Map::new().into());
        for (name, text) in annotations {
            if text.is_null() {
                there.as_object_mut().and_then(|there| there.remove(name));
            } else {
                there[name] = text.clone();
            }
        }
    }
    for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
        let Some(conditions) = node["status"]["conditions"].as_array_mut() else { return };
        match conditions.iter_mut().find(|there| there["type"] == condition["type"]) {
            Some(there) => {
                for (name, value) in condition.as_object().into_iter().flatten() {
                    there[name] = value.clone();
                }
            }
            None => conditions.push(condition.clone()),
        }
    }
}
