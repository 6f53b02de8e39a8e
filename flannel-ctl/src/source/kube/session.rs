//! One API server, and the requests that leases need.

use std::{io, time::Duration};

use futures::{AsyncReadExt as _, Stream, StreamExt as _};
use kube::{
    Client,
    core::{
        Request, WatchEvent,
        params::{GetParams, ListParams, Patch, PatchParams, WatchParams},
        request::Error as RequestError,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    error::{Kind, KubeError},
    node::Node,
    rights::Right,
};

/// For any request but a watch.
const ANSWER: Duration = Duration::from_secs(10);
/// Nodes per page of a list: a node that runs many images takes some 20 KB.
const PAGE: u32 = 200;
/// An answer larger than this is an accident.
const LARGEST: u64 = 64 << 20;
/// The server ends a watch after this many seconds; it is resumed where it ended.
pub(super) const WATCH: u32 = 290;
/// Who we are in `managedFields`.
const MANAGER: &str = "flannel-ctl";

/// Cheap to clone: all clones use the same connections.
#[derive(Clone)]
pub struct Session {
    server: String,
    client: Client,
    nodes: Request,
}

/// All nodes at one resource version, each as what is wanted of it.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    pub version: String,
    pub nodes: Vec<T>,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Node),
    Delete(Node),
    /// Nothing happened up to here.
    Bookmark(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    metadata: PageMetadata,
    items: Vec<Node>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
    remaining_item_count: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    spec: PodSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: String,
}

impl Session {
    pub(super) fn new(server: String, client: Client) -> Self {
        Self { server, client, nodes: Request::new("/api/v1/nodes") }
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// One node.
    pub async fn node(&self, name: &str) -> Result<Node, KubeError> {
        let attempt = format!("read node {name}");
        self.ask(&attempt, Right::GET_NODE, self.nodes.get(name, &GetParams::default())).await
    }

    /// The node that a pod runs on.
    pub async fn node_of_pod(&self, namespace: &str, pod: &str) -> Result<String, KubeError> {
        let attempt = format!("read pod {namespace}/{pod}");
        let pods = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let pod: Pod = self.ask(&attempt, Right::GET_POD, pods.get(pod, &GetParams::default())).await?;
        Ok(pod.spec.node_name)
    }

    /// All nodes, page by page, at one resource version; of each, what `keep` makes of it.
    pub async fn list<T>(&self, mut keep: impl FnMut(Node) -> Option<T>) -> Result<Listing<T>, KubeError> {
        let mut nodes = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut params = ListParams::default().limit(PAGE);
            params.continue_token = next.take();
            let continued = params.continue_token.is_some();
            let page: Page = match self.ask("list nodes", Right::LIST_NODES, self.nodes.list(&params)).await {
                // The history was compacted between two pages.
                Err(error) if error.kind == Kind::Gone && continued => {
                    nodes.clear();
                    continue;
                }
                answer => answer?,
            };
            nodes.extend(page.items.into_iter().filter_map(&mut keep));
            match page.metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => next = Some(token),
                None => return Ok(Listing { version: page.metadata.resource_version, nodes }),
            }
        }
    }

    /// How many nodes there are.
    pub async fn count(&self) -> Result<u64, KubeError> {
        let page = self.peek().await?;
        let more = page.metadata.remaining_item_count.unwrap_or(0);
        Ok(more + u64::try_from(page.items.len()).unwrap_or(0))
    }

    /// The resource version of the last change that the server knows of.
    pub async fn latest(&self) -> Result<String, KubeError> {
        Ok(self.peek().await?.metadata.resource_version)
    }

    async fn peek(&self) -> Result<Page, KubeError> {
        self.ask("list nodes", Right::LIST_NODES, self.nodes.list(&ListParams::default().limit(1))).await
    }

    /// What happens from `version` on; ends when the server ends it.
    pub async fn watch(
        &self,
        version: &str,
    ) -> Result<impl Stream<Item = Result<Change, KubeError>> + Send + use<>, KubeError> {
        const ATTEMPT: &str = "watch nodes";
        let wrong = {
            let server = self.server.clone();
            move |error: &kube::Error| KubeError::of(&server, ATTEMPT, Right::WATCH_NODES, error)
        };
        let params = WatchParams::default().timeout(WATCH);
        let request = self.nodes.watch(&params, version).map_err(|error| self.unsendable(ATTEMPT, &error))?;
        let events = timeout(ANSWER, self.client.request_events::<Node>(request))
            .await
            .map_err(|_| self.silent(ATTEMPT))?
            .map_err(|error| wrong(&error))?;
        let server = self.server.clone();
        Ok(events.map(move |event| match event {
            Ok(WatchEvent::Added(node) | WatchEvent::Modified(node)) => Ok(Change::Put(node)),
            Ok(WatchEvent::Deleted(node)) => Ok(Change::Delete(node)),
            Ok(WatchEvent::Bookmark(bookmark)) => Ok(Change::Bookmark(bookmark.metadata.resource_version)),
            Ok(WatchEvent::Error(status)) => {
                Err(KubeError::of_status(&server, ATTEMPT, Right::WATCH_NODES, status.code, &status.message))
            }
            Err(error) => Err(wrong(&error)),
        }))
    }

    /// Changes what `patch` says of a node's status subresource, which its annotations pass for; the node after it.
    pub async fn patch(&self, name: &str, patch: &Value) -> Result<Node, KubeError> {
        self.patch_with(name, patch, PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() })
            .await
    }

    /// Fails if we may not change this node's status, and changes nothing.
    pub async fn may_patch(&self, name: &str) -> Result<(), KubeError> {
        let params = PatchParams { dry_run: true, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.patch_with(name, &Value::Object(serde_json::Map::new()), params).await.map(drop)
    }

    async fn patch_with(&self, name: &str, patch: &Value, params: PatchParams) -> Result<Node, KubeError> {
        let attempt = format!("patch the status of node {name}");
        let request = self.nodes.patch_subresource("status", name, &params, &Patch::Strategic(patch));
        self.ask(&attempt, Right::PATCH_NODE_STATUS, request).await
    }

    /// Reads an answer whole, but of no more than a bearable size; what it says is not logged, whatever it is.
    async fn ask<T: DeserializeOwned>(
        &self,
        attempt: &str,
        right: Right,
        request: Result<http::Request<Vec<u8>>, RequestError>,
    ) -> Result<T, KubeError> {
        let request = request.map_err(|error| self.unsendable(attempt, &error))?;
        let answer = timeout(ANSWER, async {
            let stream = self.client.request_stream(request).await;
            let stream = stream.map_err(|error| KubeError::of(&self.server, attempt, right, &error))?;
            let mut text = Vec::new();
            stream.take(LARGEST).read_to_end(&mut text).await.map_err(|error: io::Error| {
                KubeError::new(&self.server, attempt, super::error::chain(&error), Kind::Unreachable)
            })?;
            serde_json::from_slice(&text).map_err(|error| {
                KubeError::new(&self.server, attempt, format!("not the answer of an API server: {error}"), Kind::Other)
            })
        });
        answer.await.map_err(|_| self.silent(attempt))?
    }

    fn unsendable(&self, attempt: &str, error: &RequestError) -> KubeError {
        KubeError::new(&self.server, attempt, super::error::chain(error), Kind::Other)
    }

    fn silent(&self, attempt: &str) -> KubeError {
        let answer = format!("no answer within {} s", ANSWER.as_secs());
        KubeError::new(&self.server, attempt, answer, Kind::Unreachable)
    }
}
