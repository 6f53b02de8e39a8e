//! Requests to answers.

use std::{
    io::{self, Read, Write},
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    http::{self, Request},
    objects::{Entry, Objects, patch_status},
};

/// Between two bookmarks of a watch.
const BOOKMARK: Duration = Duration::from_secs(1);

/// The objects, and who waits for changes.
#[derive(Debug, Default)]
pub(super) struct Shared {
    objects: Mutex<Objects>,
    changed: Condvar,
}

impl Shared {
    /// Everybody who waits is woken afterwards.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no panic while the objects are changed")
    }

    /// One request and its answer. `known`: the connection itself says who the client is.
    pub(super) fn serve(
        &self,
        stream: &mut (impl Read + Write),
        known: bool,
        ended: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let Some(request) = Request::read(stream)? else { return Ok(()) };
        let parts: Vec<&str> = request.path.trim_start_matches("/api/v1/").split('/').collect();
        let watch = request.query.get("watch").is_some_and(|text| text == "true" || text == "1");
        let (verb, resource, name) = match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["nodes"]) => (if watch { "watch" } else { "list" }, "nodes", String::new()),
            ("GET", ["nodes", name]) => ("get", "nodes", (*name).to_owned()),
            ("PATCH", ["nodes", name, "status"]) => ("patch", "nodes/status", (*name).to_owned()),
            ("GET", ["namespaces", namespace, "pods", name]) => ("get", "pods", format!("{namespace}/{name}")),
            _ => return http::answer(stream, 404, &http::status(404, "NotFound", "no such path here")),
        };
        let delay = self.with(|objects| {
            objects.requests.push(format!("{verb} {resource} {name}").trim_end().to_owned());
            objects.delay
        });
        std::thread::sleep(delay);
        if let Some((code, refusal)) = self.refusal(&request, verb, resource, &name, known) {
            return http::answer(stream, code, &refusal);
        }
        if verb == "watch" {
            return self.watch(stream, &request, ended);
        }
        let (code, body) = self.respond(&request, verb, resource, &name);
        http::answer(stream, code, &body)
    }

    fn refusal(&self, request: &Request, verb: &str, resource: &str, name: &str, known: bool) -> Option<(u16, Value)> {
        let objects = self.lock();
        let token = request.headers.get("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let welcome =
            known || objects.tokens.as_ref().is_none_or(|tokens| token.is_some_and(|token| tokens.contains(token)));
        if !welcome {
            return Some((401, http::status(401, "Unauthorized", "Unauthorized")));
        }
        objects.refused.contains(&(verb.to_owned(), resource.to_owned())).then(|| {
            let message =
                format!("{resource} \"{name}\" is forbidden: User \"lab\" cannot {verb} resource \"{resource}\"");
            (403, http::status(403, "Forbidden", &message))
        })
    }

    fn respond(&self, request: &Request, verb: &str, resource: &str, name: &str) -> (u16, Value) {
        let missing = || (404, http::status(404, "NotFound", &format!("{resource} \"{name}\" not found")));
        match (verb, resource) {
            ("list", _) => {
                let limit = request.query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
                match self.lock().page(limit, request.query.get("continue").map(String::as_str)) {
                    Some(page) => (200, page),
                    None => (410, gone()),
                }
            }
            ("get", "pods") => match self.lock().pods.get(name) {
                Some(node) => (200, json!({"kind": "Pod", "spec": {"nodeName": node}})),
                None => missing(),
            },
            ("get", _) => self.lock().node(name).map_or_else(missing, |node| (200, node.clone())),
            _ => {
                let kind = request.headers.get("content-type").map_or("", String::as_str);
                if !kind.starts_with("application/strategic-merge-patch+json") {
                    return (415, http::status(415, "UnsupportedMediaType", &format!("not for patches: {kind}")));
                }
                let Ok(patch) = serde_json::from_slice::<Value>(&request.body) else {
                    return (400, http::status(400, "BadRequest", "the patch is no JSON"));
                };
                let dry = request.query.contains_key("dryRun");
                let change = |node: &mut Value| {
                    if !dry {
                        patch_status(node, &patch);
                    }
                };
                self.with(|objects| objects.change(name, change).map_or_else(missing, |node| (200, node.clone())))
            }
        }
    }

    fn watch(&self, stream: &mut impl Write, request: &Request, ended: &dyn Fn() -> bool) -> io::Result<()> {
        let number = |name: &str| request.query.get(name).and_then(|text| text.parse().ok());
        let mut seen: u64 = number("resourceVersion").unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(290));
        let mut bookmark = Instant::now() + BOOKMARK;
        let mine = self.lock().watches;
        if self.lock().since(seen).is_none() {
            return http::answer(stream, 410, &gone());
        }
        http::begin_stream(stream)?;
        while Instant::now() < until && !ended() {
            let news = {
                let objects = self.lock();
                let (objects, _) = self
                    .changed
                    .wait_timeout_while(objects, BOOKMARK / 4, |objects| {
                        objects.version() == seen && objects.watches == mine
                    })
                    .expect("no panic while the objects are changed");
                if objects.watches != mine {
                    return Ok(());
                }
                // A watch that runs has seen it all, whatever is compacted.
                let news = objects.since(seen).unwrap_or_default().iter().map(Entry::line).collect::<String>();
                seen = objects.version();
                news
            };
            if !news.is_empty() {
                http::chunk(stream, &news)?;
            }
            if Instant::now() >= bookmark {
                let object =
                    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": seen.to_string()}});
                http::chunk(stream, &format!("{}\n", json!({"type": "BOOKMARK", "object": object})))?;
                bookmark = Instant::now() + BOOKMARK;
            }
        }
        http::chunk(stream, "")
    }
}

fn gone() -> Value {
    http::status(410, "Expired", "The resourceVersion is too old")
}
