//! What went wrong between us and the API server.

use std::{error::Error as StdError, fmt};

use kube::client::AuthError;

use super::rights::Right;
use crate::source::health::Trouble;

/// Longest answer that is repeated, in characters.
const LONGEST: usize = 400;

/// What was tried, at which server, what was answered, and what usually explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeError {
    /// URL of the API server; empty while it is not known.
    pub server: String,
    pub attempt: String,
    pub answer: String,
    pub kind: Kind,
}

/// What the failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody listens there.
    Refused,
    /// No answer, or the connection broke.
    Unreachable,
    /// TLS, or what is needed for it, is wrong.
    Tls,
    /// How to reach the server is not known, or its credentials cannot be read.
    Credentials,
    /// 401: it does not know who we are.
    Unauthorized,
    /// 403: it knows, and says no.
    Forbidden(Right),
    NotFound,
    /// 410: the history that was asked for is gone: list anew.
    Gone,
    /// 429 and 5xx.
    Busy,
    /// Anything else; the answer has to speak for itself.
    Other,
}

impl Kind {
    /// How long to wait before the next try.
    pub(super) fn trouble(self) -> Trouble {
        match self {
            Self::Refused => Trouble::Refused,
            Self::Forbidden(_) | Self::Unauthorized | Self::Credentials | Self::Tls => Trouble::Denied,
            Self::Unreachable | Self::NotFound | Self::Gone | Self::Busy | Self::Other => Trouble::Silent,
        }
    }

    fn hint(self) -> Option<String> {
        let hint = match self {
            Self::Refused => "nothing listens there: is the API server running, are address and port right",
            Self::Unreachable => "the API server is stopped or overloaded, or a firewall drops the packets",
            Self::Tls => {
                "the CA must be the one that signed the API server's certificate, the certificate must name this \
                 host, and both must be in date"
            }
            Self::Unauthorized => "the token or client certificate has expired, or is of another cluster",
            Self::Forbidden(Right { verb, resource }) => {
                return Some(format!(
                    "no role grants this user the verb {verb} on {resource}: deploy/kubernetes has the rules"
                ));
            }
            Self::Busy => "it is overloaded, starting, or has lost its etcd; tried again by itself",
            Self::Credentials | Self::NotFound | Self::Gone | Self::Other => return None,
        };
        Some(hint.to_owned())
    }

    fn of_status(code: u16, right: Right) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(right),
            404 => Self::NotFound,
            410 => Self::Gone,
            429 | 500..=599 => Self::Busy,
            _ => Self::Other,
        }
    }
}

impl KubeError {
    pub(super) fn new(server: &str, attempt: impl Into<String>, answer: impl Into<String>, kind: Kind) -> Self {
        Self { server: server.into(), attempt: attempt.into(), answer: answer.into(), kind }
    }

    pub(super) fn credentials(attempt: impl Into<String>, answer: impl fmt::Display) -> Self {
        Self::new("", attempt, answer.to_string(), Kind::Credentials)
    }

    /// The answer to a request that takes `right`.
    pub(super) fn of(server: &str, attempt: impl Into<String>, right: Right, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(server, attempt, right, status.code, &status.message),
            kube::Error::Auth(error) => Self::new(server, attempt, of_auth(error), Kind::Credentials),
            error => Self::transport(server, attempt, error),
        }
    }

    pub(super) fn of_status(server: &str, attempt: impl Into<String>, right: Right, code: u16, message: &str) -> Self {
        let message: String = message.chars().take(LONGEST).flat_map(char::escape_debug).collect();
        Self::new(server, attempt, format!("{code} {message}").trim_end(), Kind::of_status(code, right))
    }

    /// A connection that broke, or was never made.
    fn transport(server: &str, attempt: impl Into<String>, error: &(dyn StdError + 'static)) -> Self {
        // The library's own first words say no more than that it was a request.
        if let Some(auth) = find::<AuthError>(error) {
            return Self::new(server, attempt, of_auth(auth), Kind::Credentials);
        }
        let answer = chain(error.source().unwrap_or(error));
        let tls = ["certificate", "Certificate", "TLS", "tls", "InvalidContentType", "CorruptMessage", "UnknownCA"];
        let kind = if answer.contains("Connection refused") {
            Kind::Refused
        } else if tls.iter().any(|word| answer.contains(word)) && !answer.contains("close_notify") {
            Kind::Tls
        } else {
            Kind::Unreachable
        };
        Self::new(server, attempt, answer, kind)
    }
}

impl fmt::Display for KubeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kubernetes API server")?;
        if !self.server.is_empty() {
            write!(f, " at {}", self.server)?;
        }
        write!(f, ": {}: {}", self.attempt, self.answer)?;
        match self.kind.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl StdError for KubeError {}

/// Without what a credential plugin wrote: on a bad day that is the token.
pub(super) fn of_auth(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { cmd, out } => format!("the credential plugin {cmd} failed with {}", out.status),
        AuthError::AuthExecParse(_) => "what the credential plugin printed is no ExecCredential".into(),
        AuthError::InvalidBearerToken(_) => {
            "the token cannot be sent: it has a line break or control characters".into()
        }
        error => chain(error),
    }
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The texts of an error and of its causes, each once.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in causes(error) {
        let words = error.to_string();
        let words = words.split(": https://docs.rs/").next().unwrap_or_default();
        if !text.contains(words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(words);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_missing_rule() {
        let error = KubeError::of_status(
            "https://10.96.0.1",
            "patch the status of node n1",
            Right::PATCH_NODE_STATUS,
            403,
            "nodes \"n1\" is forbidden: User \"system:serviceaccount:x:y\" cannot patch\u{1b}[2J",
        );
        let text = error.to_string();
        let start = "Kubernetes API server at https://10.96.0.1: patch the status of node n1: 403 nodes \\\"n1\\\" is";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("the verb patch on nodes/status") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_a_plugin_printed_is_not_repeated() {
        let output = std::process::Command::new("sh").args(["-c", "echo s3cret; exit 3"]).output().unwrap();
        let error = AuthError::AuthExecRun { cmd: "login".into(), out: Box::new(output) };
        let text = KubeError::of("https://x", "list nodes", Right::LIST_NODES, &kube::Error::Auth(error)).to_string();
        assert!(text.contains("login failed with exit status: 3") && !text.contains("s3cret"), "{text}");
    }
}
