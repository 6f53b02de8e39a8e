//! From the options to a session: in a pod the service account, else a kubeconfig, else a bare URL.

use std::{env, path::Path, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::{
    Session,
    error::{Kind, KubeError, chain},
};
use crate::config::settings::KubeSettings;

/// To make a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// What kubelet sets in every pod.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Reads credentials anew, so that whatever was renewed meanwhile is used. Asks the server nothing yet.
pub async fn connect(settings: &KubeSettings) -> Result<Session, KubeError> {
    let url = settings.api_url.as_deref();
    let mut config = match (&settings.kubeconfig, url) {
        (Some(path), _) => from_file(path).await?,
        (None, Some(url)) if env::var_os(IN_POD).is_none() => Config::new(parse(url)?),
        (None, _) => in_cluster()?,
    };
    if let Some(url) = url {
        config.cluster_url = parse(url)?;
    }
    config.connect_timeout = Some(CONNECT);
    // When to try again is for us to say.
    config.default_retry = false;
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| match &error {
        kube::Error::Auth(auth) => {
            KubeError::new(&server, "read the credentials", super::error::of_auth(auth), Kind::Credentials)
        }
        error => KubeError::new(&server, "set up TLS", chain(error), Kind::Tls),
    })?;
    Ok(Session::new(server, client))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(url: &str) -> Result<T, KubeError> {
    url.parse().map_err(|error| KubeError::credentials(format!("read --kube-api-url {url}"), error))
}

fn in_cluster() -> Result<Config, KubeError> {
    Config::incluster().map_err(|error| {
        let answer = format!(
            "{}; outside of a pod, give --kubeconfig-file; in one, its service account must be mounted \
             (automountServiceAccountToken)",
            chain(&error)
        );
        KubeError::credentials("read the pod's service account", answer)
    })
}

async fn from_file(path: &Path) -> Result<Config, KubeError> {
    let wrong = |error: &KubeconfigError| {
        let answer = match error {
            // The parser quotes the lines around a mistake, and tokens stand in them.
            KubeconfigError::Parse(error) => match error.location() {
                Some(at) => format!("not a kubeconfig, at line {}", at.line()),
                None => "not a kubeconfig".into(),
            },
            error => chain(error),
        };
        KubeError::credentials(format!("read the kubeconfig {}", path.display()), answer)
    };
    let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| wrong(&error))
}
