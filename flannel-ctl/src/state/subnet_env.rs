//! subnet.env: what the CNI plugin and Docker's start script read (flannel's
//! `pkg/subnet/subnet.go`, `WriteSubnetFile` and `ReadCIDRFromSubnetFile`).

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{FileError, atomic};

/// The file's content; a family that is off has neither of its two lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    pub v4: Option<Pair<Ipv4Net>>,
    pub v6: Option<Pair<Ipv6Net>>,
    /// Of a pod's interface.
    pub mtu: u32,
    /// Whether we masquerade, so that Docker need not.
    pub ip_masq: bool,
}

/// One family's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<Net> {
    /// The cluster-wide range.
    pub network: Net,
    /// Our own; written with the address of the bridge, the first behind the base address.
    pub subnet: Net,
}

/// What an earlier daemon, or flannel, left in the file: each line on its own, since a damaged
/// one must not cost us the subnet that another one names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    pub network_v4: Option<Ipv4Net>,
    pub subnet_v4: Option<Ipv4Net>,
    pub network_v6: Option<Ipv6Net>,
    pub subnet_v6: Option<Ipv6Net>,
    pub mtu: Option<u32>,
    pub ip_masq: Option<bool>,
    /// Lines that could not be used, for the log.
    pub problems: Vec<Problem>,
}

/// A line of the file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("line {line} is not of the form KEY=value")]
    Form { line: usize },
    #[error("{key} is {value:?}, which is not {expected}")]
    Value { key: &'static str, value: String, expected: &'static str },
    #[error("{key} lists several ranges, which counts as none")]
    Several { key: &'static str },
}

impl SubnetEnv {
    /// Other users read it too.
    const MODE: u32 = 0o644;
    /// More than any file that we or flannel write; the rest of a larger one is not looked at.
    const MAX_LEN: u64 = 64 * 1024;

    /// The file, byte for byte as flannel writes it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Some(Pair { network, subnet }) = self.v4 {
            let bridge = Ipv4Addr::from_bits(subnet.addr().to_bits().wrapping_add(1));
            push(&mut text, "NETWORK", format_args!("{network}"));
            push(&mut text, "SUBNET", format_args!("{bridge}/{}", subnet.prefix_len()));
        }
        if let Some(Pair { network, subnet }) = self.v6 {
            let bridge = Ipv6Addr::from_bits(subnet.addr().to_bits().wrapping_add(1));
            push(&mut text, "IPV6_NETWORK", format_args!("{network}"));
            push(&mut text, "IPV6_SUBNET", format_args!("{bridge}/{}", subnet.prefix_len()));
        }
        push(&mut text, "MTU", format_args!("{}", self.mtu));
        push(&mut text, "IPMASQ", format_args!("{}", self.ip_masq));
        text
    }

    /// Puts the file in place atomically; `false` when it already says this.
    pub fn write(&self, path: &Path) -> Result<bool, FileError> {
        atomic::replace(path, self.render().as_bytes(), Self::MODE)
    }
}

impl Previous {
    /// Reads the file; a missing one is empty.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(SubnetEnv::MAX_LEN).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(FileError::of("read", path)(error)),
        }
    }

    /// Reads the text: `KEY=value` or `KEY: value`, `export` before it, quotes around the value,
    /// `#` comments. Keys of others are passed over; of a repeated key the last counts.
    pub fn parse(text: &str) -> Self {
        let mut previous = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = split(line) else {
                previous.problems.push(Problem::Form { line: index + 1 });
                continue;
            };
            if let Err(problem) = previous.take(key, value) {
                previous.problems.push(problem);
            }
        }
        previous
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        match key {
            "FLANNEL_NETWORK" => self.network_v4 = range("FLANNEL_NETWORK", value, "an IPv4 range")?,
            "FLANNEL_SUBNET" => {
                self.subnet_v4 = range("FLANNEL_SUBNET", value, "an IPv4 range")?.map(|net: Ipv4Net| net.trunc());
            }
            "FLANNEL_IPV6_NETWORK" => self.network_v6 = range("FLANNEL_IPV6_NETWORK", value, "an IPv6 range")?,
            "FLANNEL_IPV6_SUBNET" => {
                self.subnet_v6 = range("FLANNEL_IPV6_SUBNET", value, "an IPv6 range")?.map(|net: Ipv6Net| net.trunc());
            }
            "FLANNEL_MTU" => self.mtu = Some(parsed("FLANNEL_MTU", value, "a number")?),
            "FLANNEL_IPMASQ" => self.ip_masq = Some(parsed("FLANNEL_IPMASQ", value, "true or false")?),
            _ => {}
        }
        Ok(())
    }
}

fn push(text: &mut String, key: &str, value: std::fmt::Arguments<'_>) {
    writeln!(text, "FLANNEL_{key}={value}").expect("writing to a String cannot fail");
}

fn split(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(line, str::trim_start);
    let (key, value) = line.split_at(line.find(['=', ':'])?);
    let (key, value) = (key.trim(), value[1..].trim());
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let (inside, behind) = rest.split_once(quote)?;
            let behind = behind.trim_start();
            return (behind.is_empty() || behind.starts_with('#')).then_some((key, inside));
        }
    }
    let value = match value.find(" #").or_else(|| value.find("\t#")) {
        Some(comment) => value[..comment].trim_end(),
        None => value,
    };
    Some((key, value))
}

fn range<Net: FromStr>(key: &'static str, value: &str, expected: &'static str) -> Result<Option<Net>, Problem> {
    match value.split(',').filter(|part| !part.trim().is_empty()).count() {
        0 => Ok(None),
        1 => parsed(key, value.trim_matches([',', ' ', '\t']), expected).map(Some),
        _ => Err(Problem::Several { key }),
    }
}

fn parsed<T: FromStr>(key: &'static str, value: &str, expected: &'static str) -> Result<T, Problem> {
    value.parse().map_err(|_| Problem::Value { key, value: value.chars().take(100).collect(), expected })
}

#[cfg(test)]
#[path = "subnet_env_tests.rs"]
mod tests;
