//! What went wrong between us and etcd.

use std::{error::Error, fmt};

use etcd_client::Error as ClientError;
use tonic::Code;

/// rustls passes the server's word on.
const ALERT: &str = "received fatal alert";
/// A TLS connection that broke: the server's process ended, or its machine.
const UNFINISHED: &str = "without sending TLS close_notify";

/// What was tried, at which endpoint, what was answered, and what usually explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdError {
    pub endpoint: String,
    pub attempt: String,
    pub answer: String,
    pub kind: Kind,
}

/// What the failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody listens there: the cheapest answer there is.
    Refused,
    /// No answer, or the connection broke.
    Unreachable,
    /// The connection was closed as soon as it was used for the first time.
    Dropped,
    /// The same over TLS, or said by an alert: etcd does not take us.
    Rejected,
    /// TLS, or what is needed for it, is wrong.
    Tls,
    /// User, password or rights.
    Denied,
    /// The member has no leader, or was cut off from it.
    NoLeader,
    /// The database is full: reads go on, writes do not.
    NoSpace,
    /// The history that was asked for is gone: list anew.
    Compacted,
    /// The answer was longer than we take in one piece.
    TooLarge,
    /// The etcd lease does not exist any more.
    LeaseGone,
    /// Anything else; the answer has to speak for itself.
    Other,
}

impl Kind {
    fn hint(self) -> Option<&'static str> {
        match self {
            Self::Refused => Some("nothing listens there: is etcd running, is the port right"),
            Self::Unreachable => Some("etcd is stopped, overloaded, or a firewall drops the packets"),
            Self::Dropped => Some("it speaks TLS and the URL says http://, or what listens there is no etcd"),
            Self::Rejected => Some(
                "etcd wants a client certificate that it trusts: give one, in date, signed by the CA that etcd was \
                 started with",
            ),
            Self::Tls => Some(
                "the CA file must be the one that signed etcd's certificate, the certificate must name this host, \
                 and both must be in date; a plain-text etcd wants http://",
            ),
            Self::Denied => Some("check user, password and the role's right to read and write below the prefix"),
            Self::NoLeader => Some("most members are down or cut off"),
            Self::NoSpace => Some("compact and defragment etcd, then `etcdctl alarm disarm`"),
            Self::TooLarge => Some("somebody stored very large values below the prefix"),
            Self::Compacted | Self::LeaseGone | Self::Other => None,
        }
    }

    /// The session is still good: this one request was turned down. Who may not write may read all the same.
    pub fn keeps_session(self) -> bool {
        matches!(self, Self::NoSpace | Self::LeaseGone | Self::Denied)
    }
}

impl EtcdError {
    pub(super) fn new(endpoint: &str, attempt: impl Into<String>, error: &ClientError) -> Self {
        let (answer, kind) = match error {
            ClientError::GRpcStatus(status) => {
                let answer = chain(status.message(), status.source());
                let kind = classify(status.code(), &answer);
                (answer, kind)
            }
            ClientError::TransportError(error) => transport(error),
            // The client's only use of it: the server answered with a time to live of zero.
            ClientError::LeaseKeepAliveError(answer) => (answer.clone(), Kind::LeaseGone),
            other => (other.to_string(), Kind::Other),
        };
        Self { endpoint: endpoint.into(), attempt: attempt.into(), answer, kind }
    }

    pub(super) fn connect(endpoint: &str, error: &tonic::transport::Error) -> Self {
        let (answer, kind) = transport(error);
        Self { endpoint: endpoint.into(), attempt: "connect".into(), answer, kind }
    }

    /// The same, from the first request of a connection: TLS 1.3 and plain text to a TLS port
    /// are turned down only then, without a word.
    pub(super) fn at_first(self) -> Self {
        let closed = ["closed", "broken pipe", "canceled", "reset"].iter().any(|text| self.answer.contains(text));
        if closed && matches!(self.kind, Kind::Unreachable | Kind::Other) {
            let tls = self.endpoint.starts_with("https://");
            Self { kind: if tls { Kind::Rejected } else { Kind::Dropped }, ..self }
        } else {
            self
        }
    }

    /// `self` came after `last`, and tells nothing that `last` has not told: in which words a closed
    /// connection is reported is a matter of chance, and a certificate has expired longer ago each time.
    pub(super) fn is_no_news_after(&self, last: &Self) -> bool {
        let closed = matches!(self.kind, Kind::Dropped | Kind::Rejected) && !self.answer.contains(ALERT);
        let words = |error: &Self| error.answer.replace(|c: char| c.is_ascii_digit(), "");
        let same_words = self.attempt == last.attempt && words(self) == words(last);
        (self.kind, &self.endpoint) == (last.kind, &last.endpoint) && (closed || same_words)
    }

    pub(super) fn tls(endpoint: &str, attempt: String, answer: String) -> Self {
        Self { endpoint: endpoint.into(), attempt, answer, kind: Kind::Tls }
    }

    pub(super) fn timeout(endpoint: &str, attempt: impl Into<String>, after: std::time::Duration) -> Self {
        let answer = format!("no answer within {} s", after.as_secs());
        Self { endpoint: endpoint.into(), attempt: attempt.into(), answer, kind: Kind::Unreachable }
    }

    pub(super) fn stream_ended(endpoint: &str, attempt: impl Into<String>, answer: &str) -> Self {
        let answer = if answer.is_empty() { "the server ended the stream" } else { answer };
        let kind = classify(Code::Unknown, answer);
        Self { endpoint: endpoint.into(), attempt: attempt.into(), answer: answer.into(), kind }
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd at {}: {}: {}", self.endpoint, self.attempt, self.answer)?;
        match self.kind.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Error for EtcdError {}

fn transport(error: &tonic::transport::Error) -> (String, Kind) {
    let answer = chain("", error.source());
    let answer = if answer.is_empty() { error.to_string() } else { answer };
    let kind = match classify(Code::Unavailable, &answer) {
        // A TLS server closes the connection on plain text, and the other way round.
        Kind::Unreachable if answer.contains("http2") || answer.contains("frame") => Kind::Tls,
        kind => kind,
    };
    (answer, kind)
}

/// etcd's own texts (`api/v3rpc/rpctypes/error.go`) say more than its codes.
fn classify(code: Code, answer: &str) -> Kind {
    let has = |text: &str| answer.contains(text);
    let refused_by_alert = || has(ALERT) && ["Certificate", "UnknownCA", "AccessDenied"].iter().any(|name| has(name));
    if has("database space exceeded") {
        Kind::NoSpace
    } else if has("requested lease not found") {
        Kind::LeaseGone
    } else if has("required revision has been compacted") {
        Kind::Compacted
    } else if has("no leader") || has("leader changed") || has("leader failed") {
        Kind::NoLeader
    } else if has("Connection refused") {
        Kind::Refused
    } else if has(UNFINISHED) || has("broken pipe") || has("connection reset") || has("Connection reset") {
        Kind::Unreachable
    } else if refused_by_alert() {
        Kind::Rejected
    } else if has("certificate")
        || has("Certificate")
        || has("TLS")
        || has("tls")
        || has("InvalidContentType")
        || has("CorruptMessage")
    {
        Kind::Tls
    } else if has("user name is empty") || has("authentication failed") || has("auth store is old") {
        Kind::Denied
    } else {
        match code {
            Code::Unauthenticated | Code::PermissionDenied => Kind::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Kind::Unreachable,
            Code::OutOfRange => {
                if has("message length too large") {
                    Kind::TooLarge
                } else {
                    Kind::Other
                }
            }
            _ => Kind::Other,
        }
    }
}

/// The texts of an error and of its causes, each once.
fn chain(first: &str, mut cause: Option<&(dyn Error + 'static)>) -> String {
    let mut text = first.to_owned();
    while let Some(error) = cause {
        let next = error.to_string();
        // What a server that was killed leaves behind is no matter for its library's manual.
        let next = next.split(": https://docs.rs/").next().unwrap_or_default();
        if !next.is_empty() && !text.contains(next) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(endpoint: &str, answer: &str) -> EtcdError {
        let kind = classify(Code::Unavailable, answer);
        EtcdError { endpoint: endpoint.into(), attempt: "read".into(), answer: answer.into(), kind }
    }

    #[test]
    fn a_broken_tls_connection_is_no_matter_of_certificates() {
        let error = answered("https://a", "peer closed connection without sending TLS close_notify");
        assert_eq!((error.kind, error.at_first().kind), (Kind::Unreachable, Kind::Rejected));
    }

    #[test]
    fn whose_certificate_is_refused() {
        for alert in ["BadCertificate", "CertificateExpired", "CertificateRequired", "UnknownCA"] {
            assert_eq!(answered("https://a", &format!("received fatal alert: {alert}")).kind, Kind::Rejected);
        }
        for ours in ["received fatal alert: ProtocolVersion: tls", "invalid peer certificate: Expired"] {
            assert_eq!(answered("https://a", ours).kind, Kind::Tls, "{ours}");
        }
    }

    #[test]
    fn the_many_words_for_a_closed_connection_are_said_once() {
        let closed = answered("https://a", "connection closed").at_first();
        let broken = answered("https://a", "stream closed because of a broken pipe").at_first();
        let alert = answered("https://a", "received fatal alert: BadCertificate").at_first();
        assert!(broken.is_no_news_after(&closed) && closed.is_no_news_after(&alert));
        assert!(!alert.is_no_news_after(&closed), "the reason is news");
        assert!(!closed.is_no_news_after(&answered("https://a", "Connection refused")));
        assert!(!closed.is_no_news_after(&answered("https://b", "connection closed").at_first()));
        let expired =
            |ago: u32| answered("https://a", &format!("invalid peer certificate: expired ({ago} seconds ago)"));
        assert!(expired(12).is_no_news_after(&expired(9)));
        assert!(!answered("http://a", "x").is_no_news_after(&answered("http://a", "y")));
    }
}
