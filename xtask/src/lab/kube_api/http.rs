//! HTTP as far as the fake API server needs it: one request after another on a connection.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read, Write},
};

use serde_json::{Value, json};

/// Longest body that is read.
const LARGEST: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// `None`: the connection ended before a request came.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        reader.take(LARGEST.min(length)).read_to_end(&mut body)?;
        Ok(Some(Self { method, path, query, headers, body }))
    }
}

/// A whole answer.
pub(super) fn answer(stream: &mut impl Write, code: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// A refusal in the API server's own form.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

/// The same about one object, or about all of a kind.
pub(super) fn status_of(code: u16, reason: &str, message: &str, kind: &str, name: &str) -> Value {
    let mut status = status(code, reason, message);
    status["details"] = if name.is_empty() { json!({"kind": kind}) } else { json!({"name": name, "kind": kind}) };
    status
}

/// The beginning of an answer whose end is not known.
pub(super) fn begin_stream(stream: &mut impl Write) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    stream.flush()
}

/// More of it; nothing is its end.
pub(super) fn chunk(stream: &mut impl Write, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
    stream.flush()
}
