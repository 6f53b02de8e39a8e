//! PURE: texts of options to values. Errors are the rule that the text breaks.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use regex::Regex;

/// Go's `strconv.ParseBool`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

pub(super) fn number<T>(allowed: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let rule = || format!("must be a whole number from {} to {}", allowed.start(), allowed.end());
        text.parse().ok().filter(|value| allowed.contains(value)).ok_or_else(rule)
    }
}

pub(super) fn word(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".into());
    }
    Ok(text.to_owned())
}

/// Of node annotations, completed by flannel's rules: at most one slash; without one it is appended, else a dash
/// unless the prefix ends in either.
pub(super) fn annotation_prefix(text: &str) -> Result<String, String> {
    let prefix = match text.split_once('/') {
        None => format!("{text}/"),
        Some((_, name)) if name.contains('/') => return Err("must have no more than one slash".into()),
        Some(_) if text.ends_with(['/', '-']) => text.to_owned(),
        Some(_) => format!("{text}-"),
    };
    let (domain, name) = prefix.split_once('/').unwrap_or_default();
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let name_fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if domain.len() > 253 || !domain.split('.').all(label) || name.len() > 40 || !name_fits {
        return Err("must be a domain name in lower case, with a name behind a slash if any".into());
    }
    Ok(prefix)
}

/// An absolute path; relative ones start at `current_dir`.
pub(super) fn path(current_dir: &Path) -> impl Fn(&str) -> Result<PathBuf, String> {
    // Collected anew, so that doubled slashes and inner dots do not make two of one path.
    move |text| Ok(current_dir.join(text).components().collect())
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "must be an IP address".into())
}

/// An address that another node can dial.
pub(super) fn public_v4(text: &str) -> Result<Ipv4Addr, String> {
    let ip: Ipv4Addr = text.parse().map_err(|_| "must be an IPv4 address".to_owned())?;
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() {
        return Err("must be an address that other nodes can dial".into());
    }
    Ok(ip)
}

pub(super) fn public_v6(text: &str) -> Result<Ipv6Addr, String> {
    let ip: Ipv6Addr = text.parse().map_err(|_| "must be an IPv6 address".to_owned())?;
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.to_ipv4_mapped().is_some() {
        return Err("must be an address that other nodes can dial".into());
    }
    if ip.is_unicast_link_local() {
        return Err("must not be link-local: peers could not tell on which link".into());
    }
    Ok(ip)
}

/// Ranges or addresses separated by commas; host bits are cleared.
pub(super) fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let range = |part: &str| {
        let net = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        net.map(|net| net.trunc()).map_err(|_| format!("{part:?} is neither a range such as 10.0.0.0/8 nor an address"))
    };
    parts(text).map(range).collect()
}

pub(super) fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let told = error.to_string();
        format!(
            "is not a regular expression: {}",
            told.lines().last().unwrap_or_default().trim_start_matches("error: ")
        )
    })
}

/// `90s`, `15m`, `24h`, `7d`; a bare number is seconds. etcd answers with its own minimum to
/// less than 2 s, and refuses more than nine thousand million seconds.
pub(super) fn lease_ttl(text: &str) -> Result<Duration, String> {
    let rule = || "must be a time such as 90s, 15m, 24h or 7d, from 2s to 3650d".to_owned();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(rule()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.filter(|seconds| (2..=3650 * 86_400).contains(seconds)).map(Duration::from_secs).ok_or_else(rule)
}

/// Comma-separated `http` and `https` URLs, which must be nothing but scheme, host and port.
pub(super) fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let endpoint = |part: &str| {
        let rule = |why: &str| format!("{why} in {part:?}; an endpoint looks like https://10.0.0.1:2379");
        let (scheme, rest) = part.split_once("://").ok_or_else(|| rule("no http:// or https://"))?;
        if scheme != "http" && scheme != "https" {
            return Err(rule("neither http nor https"));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("must not hold a password; use --etcd-username and FLANNELD_ETCD_PASSWORD".into());
        }
        if authority.is_empty() || authority.contains(['/', '?', '#', ' ']) {
            return Err(rule("host and port expected"));
        }
        let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if port.is_some_and(|port| port.parse::<u16>().is_err() || port == "0") {
            return Err(rule("bad port"));
        }
        Ok(format!("{scheme}://{authority}"))
    };
    let urls: Vec<_> = parts(text).map(endpoint).collect::<Result<_, _>>()?;
    if urls.is_empty() { Err("must name at least one endpoint".into()) } else { Ok(urls) }
}

/// A key root: with a slash in front, none behind.
pub(super) fn key_prefix(text: &str) -> Result<String, String> {
    let key = text.trim_end_matches('/');
    if !text.starts_with('/') {
        return Err("must begin with /".into());
    }
    if key.is_empty() || key.contains("//") || key.chars().any(|letter| letter.is_control() || letter == ' ') {
        return Err("must be a key such as /coreos.com/network".into());
    }
    Ok(key.to_owned())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_scheme_host_and_port() {
        assert_eq!(endpoints("http://a:1, https://[::1]:2/,").unwrap(), ["http://a:1", "https://[::1]:2"]);
        assert_eq!(endpoints("https://etcd.example").unwrap(), ["https://etcd.example"]);
        for text in
            ["", ",", "10.0.0.1:2379", "ftp://a", "http://", "http://a:x", "http://a:0", "http://a/b", "http://a,b"]
        {
            assert!(endpoints(text).is_err(), "{text}");
        }
        let rule = endpoints("http://root:geheim@a:1").unwrap_err();
        assert!(!rule.contains("geheim"), "{rule}");
    }

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(lease_ttl("24h").unwrap(), Duration::from_hours(24));
        assert_eq!(lease_ttl("30").unwrap(), Duration::from_secs(30));
        for text in ["", "h", "1s", "-5m", "1.5h", "5y", "99999999999999999999d", "4000d", "5 m"] {
            assert!(lease_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_key_root_has_one_form() {
        assert_eq!(key_prefix("/coreos.com/network/").unwrap(), "/coreos.com/network");
        for text in ["", "/", "coreos.com", "/a//b", "/a b", "/a\n"] {
            assert!(key_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_come_in_lists_and_lose_their_host_bits() {
        let nets: Vec<IpNet> = ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        assert_eq!(ranges("10.1.2.3/8,192.0.2.1, fd00::/8").unwrap(), nets);
        assert!(ranges("10.0.0.0/33").is_err());
    }
}
