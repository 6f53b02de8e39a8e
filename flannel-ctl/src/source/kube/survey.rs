//! A look at everything, once, that changes nothing: for `plan`, `check` and `leases list`.

use std::path::Path;

use super::{
    Names, Session, Words,
    annotations::Annotations,
    connect::connect,
    error::KubeError,
    learn::{cut, look, read, words},
    node::{Node, record},
    own::{Standing, judge},
};
use crate::{
    config::settings::KubeSettings,
    model::{LeaseRecord, LeaseValue, Network},
    source::OwnLease,
};

/// The API server, our node there, and the network config, cut as Kubernetes cuts it.
pub struct Survey {
    pub session: Session,
    pub name: String,
    pub network: Network,
    pub words: Words,
    node: Node,
    names: Names,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(transparent)]
    Kube(#[from] KubeError),
    /// The network config or our node is not as it must be.
    #[error("{0}")]
    Unusable(String),
}

/// Reads what a daemon on this node would start from.
pub async fn survey(
    settings: &KubeSettings,
    net_config: &Path,
    node_name: Option<&str>,
) -> Result<Survey, SurveyError> {
    let network = read(net_config).map_err(SurveyError::Unusable)?;
    let session = connect(settings).await?;
    let (name, node) = look(&session, node_name).await?;
    let network = cut(&name, &node, &network).map_err(SurveyError::Unusable)?;
    let names = Names::new(&settings.annotation_prefix);
    let words = words(&node, &network, &names).map_err(SurveyError::Unusable)?;
    Ok(Survey { session, name, network, words, node, names })
}

impl Survey {
    /// Our lease with this wish, and the annotations that would be written.
    pub fn lease(&self, wish: &LeaseValue) -> Result<(OwnLease, Annotations), SurveyError> {
        judge(&self.name, Some(&self.node), wish, &self.network, &self.names)
            .map(|Standing { lease, wrong }| (lease, wrong))
            .map_err(SurveyError::Unusable)
    }

    /// Everybody's.
    pub async fn records(&self) -> Result<Vec<LeaseRecord>, KubeError> {
        records(&self.session, &self.names, &self.name).await
    }
}

/// All leases as a daemon on node `own` would be told them.
pub async fn records(session: &Session, names: &Names, own: &str) -> Result<Vec<LeaseRecord>, KubeError> {
    let keep = |node: Node| record(&node, names).map(|record| (node.metadata.name.as_str().into(), record));
    Ok(super::view::View::new(own).replace(session.list(keep).await?.nodes))
}
