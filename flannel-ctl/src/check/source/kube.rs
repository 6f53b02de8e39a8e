//! The API server: does it answer, does it let us do what `run` does, has our node a range.

use std::path::Path;

use tokio::time::timeout;

use super::{PATIENCE, described};
use crate::{
    check::Finding,
    config::settings::KubeSettings,
    model::Network,
    source::kube::{Kind, KubeError, Survey, survey},
};

pub(super) async fn check(
    settings: &KubeSettings,
    net_config: &Path,
    node_name: Option<&str>,
) -> (Vec<Finding>, Option<Network>) {
    let looked = async {
        let survey = survey(settings, net_config, node_name).await.map_err(|error| error.to_string())?;
        let count = survey.session.count().await.map_err(|error| error.to_string())?;
        let rights = survey.session.may_patch(&survey.name).await;
        Ok::<_, String>((survey, count, rights))
    };
    match timeout(PATIENCE, looked).await {
        Ok(Ok((survey, count, rights))) => (findings(&survey, count, rights), Some(survey.network)),
        Ok(Err(detail)) => (vec![Finding::fail("source", detail, "docs/operations.md has what cures it")], None),
        Err(_) => {
            let detail = format!("the Kubernetes API server gave no answer within {} s", PATIENCE.as_secs());
            let cure = "is it running, and are --kube-api-url and --kubeconfig-file right";
            (vec![Finding::fail("source", detail, cure)], None)
        }
    }
}

fn findings(survey: &Survey, count: u64, rights: Result<(), KubeError>) -> Vec<Finding> {
    let server = survey.session.server();
    let mut findings = vec![Finding::ok("source", format!("Kubernetes at {server} answers, {count} nodes"))];
    match rights {
        Ok(()) => findings.push(Finding::ok("own node", format!("{}, and its status may be patched", survey.name))),
        Err(error) => {
            let cure = match error.kind {
                Kind::Forbidden(_) => "kubectl apply -f deploy/kubernetes/flannel-ctl.yml, or its ClusterRole alone",
                _ => "docs/operations.md has what cures it",
            };
            findings.push(Finding::fail("own node", error.to_string(), cure));
        }
    }
    findings.push(described(&survey.network));
    findings
}
