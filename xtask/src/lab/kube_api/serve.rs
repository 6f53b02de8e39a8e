//! Requests to answers.

use std::{
    io::{self, Read, Write},
    ops::ControlFlow,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    http::{self, Request},
    objects::{BadToken, Entry, Objects, patch_status},
};

/// Between two bookmarks of a watch.
const BOOKMARK: Duration = Duration::from_secs(1);

const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
     the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
     Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
     deleted between the time the first chunk was returned and now may show up in the list.";

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

    /// Requests and their answers, until the client leaves. `known`: the connection itself says who the client is.
    pub(super) fn serve(
        &self,
        stream: &mut (impl Read + Write),
        known: bool,
        ended: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        while let Some(request) = Request::read(stream)? {
            if ended() || self.answer(stream, &request, known, ended)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// One answer; a watch that is cut ends its connection.
    fn answer(
        &self,
        stream: &mut (impl Read + Write),
        request: &Request,
        known: bool,
        ended: &dyn Fn() -> bool,
    ) -> io::Result<ControlFlow<()>> {
        let parts: Vec<&str> = request.path.trim_start_matches("/api/v1/").split('/').collect();
        let watch = request.query.get("watch").is_some_and(|text| text == "true" || text == "1");
        let (verb, resource, name) = match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["nodes"]) => (if watch { "watch" } else { "list" }, "nodes", String::new()),
            ("GET", ["nodes", name]) => ("get", "nodes", (*name).to_owned()),
            ("PATCH", ["nodes", name, "status"]) => ("patch", "nodes/status", (*name).to_owned()),
            ("GET", ["namespaces", namespace, "pods", name]) => ("get", "pods", format!("{namespace}/{name}")),
            _ => {
                http::answer(stream, 404, &http::status(404, "NotFound", "no such path here"))?;
                return Ok(ControlFlow::Continue(()));
            }
        };
        let delay = self.with(|objects| {
            // Who wants one of all nodes wants to know how many there are, or the version.
            let peek = verb == "list" && request.query.get("limit").is_some_and(|limit| limit == "1");
            let word = if peek { "peek" } else { verb };
            objects.requests.push(format!("{word} {resource} {name}").trim_end().to_owned());
            objects.delay
        });
        std::thread::sleep(delay);
        let (code, body) = match self.refusal(request, verb, resource, &name, known) {
            Some(refusal) => refusal,
            None if verb == "watch" => return self.watch(stream, request, ended),
            None => self.respond(request, verb, resource, &name),
        };
        http::answer(stream, code, &body)?;
        Ok(ControlFlow::Continue(()))
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
            let (kind, name, place) = addressed(resource, name);
            let object = if name.is_empty() { kind.to_owned() } else { format!("{kind} \"{name}\"") };
            let message = format!(
                "{object} is forbidden: User \"lab\" cannot {verb} resource \"{resource}\" in API group \"\" {place}"
            );
            (403, http::status_of(403, "Forbidden", &message, kind, name))
        })
    }

    fn respond(&self, request: &Request, verb: &str, resource: &str, name: &str) -> (u16, Value) {
        let missing = || {
            let (kind, name, _) = addressed(resource, name);
            (404, http::status_of(404, "NotFound", &format!("{kind} \"{name}\" not found"), kind, name))
        };
        match (verb, resource) {
            ("list", _) => {
                let limit = request.query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
                match self.lock().page(limit, request.query.get("continue").map(String::as_str)) {
                    Ok(page) => (200, page),
                    Err(BadToken::Nonsense) => {
                        (400, http::status(400, "BadRequest", "invalid continue token: continue key is not valid"))
                    }
                    Err(BadToken::Old(next)) => {
                        let mut refusal = http::status(410, "Expired", TOO_OLD);
                        refusal["metadata"]["continue"] = next.into();
                        (410, refusal)
                    }
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
                    let mut refusal = http::status(415, "UnsupportedMediaType", "415: Unsupported Media Type");
                    refusal["details"] = json!({});
                    return (415, refusal);
                }
                let Ok(patch) = serde_json::from_slice::<Value>(&request.body) else {
                    return (400, http::status(400, "BadRequest", "unexpected EOF"));
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

    fn watch(
        &self,
        stream: &mut impl Write,
        request: &Request,
        ended: &dyn Fn() -> bool,
    ) -> io::Result<ControlFlow<()>> {
        let number = |name: &str| request.query.get(name).and_then(|text| text.parse().ok());
        let mut seen: u64 = number("resourceVersion").unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(290));
        let bookmarks = request.query.get("allowWatchBookmarks").is_some_and(|text| text == "true" || text == "1");
        let mut bookmark = Instant::now() + BOOKMARK;
        let mine = self.lock().watches;
        http::begin_stream(stream)?;
        if let Some(refusal) = self.with(|objects| objects.too_old(seen)) {
            // By then the answer has begun well, so the refusal is its first and last event.
            http::chunk(stream, &format!("{}\n", json!({"type": "ERROR", "object": refusal})))?;
            http::chunk(stream, "")?;
            return Ok(ControlFlow::Continue(()));
        }
        while Instant::now() < until && !ended() {
            let news = {
                let objects = self.lock();
                // Who has seen what is yet to come hears nothing until then.
                let (objects, _) = self
                    .changed
                    .wait_timeout_while(objects, BOOKMARK / 4, |objects| {
                        objects.version() <= seen && objects.watches == mine
                    })
                    .expect("no panic while the objects are changed");
                if objects.watches != mine {
                    return Ok(ControlFlow::Break(()));
                }
                // A watch that runs has seen it all, whatever is compacted.
                let news = objects.since(seen).unwrap_or_default().iter().map(Entry::line).collect::<String>();
                seen = seen.max(objects.version());
                news
            };
            if !news.is_empty() {
                http::chunk(stream, &news)?;
            }
            if bookmarks && Instant::now() >= bookmark {
                let metadata = json!({"resourceVersion": seen.to_string(), "creationTimestamp": null});
                let object =
                    json!({"kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {}});
                http::chunk(stream, &format!("{}\n", json!({"type": "BOOKMARK", "object": object})))?;
                bookmark = Instant::now() + BOOKMARK;
            }
        }
        http::chunk(stream, "")?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Kind and name of what a request is about, and where that is.
fn addressed<'a>(resource: &'a str, name: &'a str) -> (&'a str, &'a str, String) {
    let kind = resource.split('/').next().unwrap_or_default();
    match name.split_once('/') {
        Some((namespace, name)) => (kind, name, format!("in the namespace \"{namespace}\"")),
        None => (kind, name, "at the cluster scope".into()),
    }
}
