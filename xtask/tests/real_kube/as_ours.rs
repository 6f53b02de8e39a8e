//! The lab's fake API server answers as the real one does: the same requests to both.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::lab::{GATEWAY_V4, KubeApi, KubeApiOptions, Underlay, remove_leftovers, run};

use crate::{
    server::Server,
    site::{MANIFEST, skip},
};

const STRATEGIC: &str = "Content-Type: application/strategic-merge-patch+json";
/// What the fake calls everybody.
const USER: &str = "\"lab\"";
const ACCOUNT: &str = "\"system:serviceaccount:flannel-ctl:flannel-ctl\"";

/// Both servers, with nodes of the same names.
struct Both {
    server: Server,
    fake: KubeApi,
    token: String,
    underlay: Underlay,
}

impl Both {
    /// The same request to both: code, and the body if there is one.
    fn ask(&self, method: &str, path: &str, more: &[&str]) -> [(u16, Value); 2] {
        let header = format!("Authorization: Bearer {}", self.token);
        let more = [&["-H", header.as_str(), "-X", method][..], more].concat();
        let ca = self.server.dir.join("ca.pem").display().to_string();
        let real = self.curl(&format!("{}{path}", Server::url()), &[&more[..], &["--cacert", &ca]].concat());
        let fake = self.curl(&format!("{}{path}", self.fake.url()), &more);
        [real.unwrap(), fake.unwrap()].map(|(code, text)| {
            // Of a watch the first event.
            let first = serde_json::Deserializer::from_str(&text).into_iter().next();
            (code, first.transpose().unwrap().unwrap_or_default())
        })
    }

    fn curl(&self, url: &str, more: &[&str]) -> Result<(u16, String)> {
        let mut command: Command = self.underlay.netns().command(Path::new("curl"));
        let text = run(command.args(["-sS", "-w", "\n%{http_code}"]).args(more).arg(url))?;
        let (body, code) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim()));
        Ok((code.parse().with_context(|| text.clone())?, body.to_owned()))
    }

    /// Both refuse, with the same words.
    fn assert_same(&self, method: &str, path: &str, more: &[&str]) {
        let [(code, real), (ours, mut fake)] = self.ask(method, path, more);
        let user = fake["message"].as_str().unwrap().replace(USER, ACCOUNT);
        fake["message"] = user.into();
        // Where the fake stops short of a parser's own words.
        if fake["reason"] == "BadRequest" {
            let said = real["message"].as_str().unwrap();
            assert!(said.starts_with(fake["message"].as_str().unwrap()), "{method} {path}: {said}");
            fake["message"] = said.into();
        }
        if let Some(token) = real["metadata"].get("continue") {
            assert!(fake["metadata"]["continue"].is_string());
            fake["metadata"]["continue"] = token.clone();
        }
        assert_eq!((code, real), (ours, fake), "{method} {path}");
    }
}

#[test]
fn the_fake_answers_as_the_real_one() {
    if skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    remove_leftovers("rkours").unwrap();
    let underlay = Underlay::create("rkours-net", 1500).unwrap();
    let server = Server::start(underlay.netns(), dir.path()).unwrap();
    server.kubectl(&["apply", "-f", MANIFEST]).unwrap();
    let address = SocketAddr::from((GATEWAY_V4, 7443));
    let fake = KubeApi::start(Some(underlay.netns()), address, &KubeApiOptions::default()).unwrap();
    let token = server.token(None).unwrap();
    fake.accept(&[&token]);
    for name in ["a", "b", "c"] {
        server.register(name, &["10.5.1.0/24"]).unwrap();
        fake.add_node(name, &["10.5.1.0/24"]);
    }
    let mut both = Both { server, fake, token, underlay };

    both.assert_same("GET", "/api/v1/nodes/none", &[]);
    both.assert_same("PATCH", "/api/v1/nodes/none/status", &["-H", STRATEGIC, "-d", "{}"]);
    both.assert_same("PATCH", "/api/v1/nodes/a/status", &["-H", "Content-Type: application/json", "-d", "{}"]);
    both.assert_same("PATCH", "/api/v1/nodes/a/status", &["-H", STRATEGIC, "-d", "{"]);
    both.assert_same("GET", "/api/v1/nodes?limit=2&continue=rubbish", &[]);
    both.fake.refuse("get", "pods");
    both.assert_same("GET", "/api/v1/namespaces/x/pods/none", &[]);

    let [real, fake] = both.ask("GET", "/api/v1/nodes?limit=2", &[]).map(|(code, page)| {
        let names: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|node| node["metadata"]["name"].clone()).collect();
        let item = page["items"][0].get("kind").is_none();
        assert!(page["metadata"]["continue"].is_string());
        (code, page["kind"].clone(), page["metadata"]["remainingItemCount"].clone(), names, item)
    });
    assert_eq!(real, fake);

    let version = |node: &Value| node["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let patch = r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/x":"1"}}}"#;
    let before = both.ask("GET", "/api/v1/nodes/a", &[]).map(|(_, node)| version(&node));
    let asked = both.ask("PATCH", "/api/v1/nodes/a/status?dryRun=All", &["-H", STRATEGIC, "-d", "{}"]);
    assert_eq!(asked.map(|(code, node)| (code, version(&node))), before.map(|version| (200, version)), "it only asked");
    for _ in 0..2 {
        let [real, fake] = both.ask("PATCH", "/api/v1/nodes/a/status", &["-H", STRATEGIC, "-d", patch]);
        assert_eq!(real.1["metadata"]["annotations"], fake.1["metadata"]["annotations"]);
    }
    let [real, fake] = both.ask("GET", "/api/v1/nodes/a", &[]).map(|(_, node)| version(&node));
    let again = both.ask("PATCH", "/api/v1/nodes/a/status", &["-H", STRATEGIC, "-d", patch]);
    assert_eq!(again.map(|(_, node)| version(&node)), [real, fake], "what changes nothing makes no version");

    for more in [r#""reason":"Before","message":"m""#, r#""reason":"FlannelIsUp""#] {
        let patch =
            format!(r#"{{"status":{{"conditions":[{{"type":"NetworkUnavailable","status":"False",{more}}}]}}}}"#);
        let answers = both.ask("PATCH", "/api/v1/nodes/b/status", &["-H", STRATEGIC, "-d", &patch]);
        let [real, fake] = answers.map(|(_, node)| {
            let all = node["status"]["conditions"].as_array().unwrap().clone();
            let ours = all.into_iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap();
            ["status", "reason", "message"].map(|field| ours[field].clone())
        });
        assert_eq!(real, fake, "conditions are merged by type, field by field");
    }

    let watch = "/api/v1/nodes?watch=true&timeoutSeconds=2&resourceVersion=";
    let future = both.ask("GET", &format!("{watch}99999999&allowWatchBookmarks=true"), &[]);
    assert_eq!(future[0].0, future[1].0);
    assert_eq!(future[0].1, Value::Null, "who knows more than the server is told nothing");

    // Everything before now is forgotten, by etcd and by the server's own memory.
    let page = both.ask("GET", "/api/v1/nodes?limit=1", &[]);
    let tokens = page.map(|(_, page)| page["metadata"]["continue"].as_str().unwrap().to_owned());
    for text in ["z=1", "z=2"] {
        both.server.annotate("c", &[text]).unwrap();
    }
    both.server.compact().unwrap();
    both.fake.compact();
    both.server.kill().unwrap();
    both.server.again().unwrap();
    let [(code, real), (ours, fake)] = both.ask("GET", &format!("{watch}5"), &[]);
    assert_eq!((code, &real["type"]), (ours, &fake["type"]), "{real} {fake}");
    for field in ["kind", "code", "reason", "status"] {
        assert_eq!(real["object"][field], fake["object"][field]);
    }
    assert!(real["object"]["message"].as_str().unwrap().starts_with("too old resource version: 5 ("), "{real}");
    assert!(fake["object"]["message"].as_str().unwrap().starts_with("too old resource version: 5 ("), "{fake}");
    let ends = tokens.map(|token| both.ask("GET", &format!("/api/v1/nodes?limit=1&continue={token}"), &[]));
    let ([(code, mut real), _], [_, (ours, mut fake)]) = (ends[0].clone(), ends[1].clone());
    for refusal in [&mut real, &mut fake] {
        assert!(refusal["metadata"]["continue"].take().is_string(), "{refusal}");
    }
    assert_eq!((code, real), (ours, fake));

    both.token = "wrong".into();
    both.assert_same("GET", "/api/v1/nodes", &[]);
}
