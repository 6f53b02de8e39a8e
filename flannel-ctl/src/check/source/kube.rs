//! The API server: does it answer, does it let us do what `run` does, has our node a range.

use std::path::Path;

use tokio::time::timeout;

use super::{Answer, PATIENCE};
use crate::{
    check::Finding,
    config::settings::KubeSettings,
    source::kube::{Kind, KubeError, Survey, survey},
};

pub(super) async fn check(settings: &KubeSettings, net_config: &Path, node_name: Option<&str>) -> Answer {
    let looked = async {
        let survey = survey(settings, net_config, node_name).await.map_err(|error| error.to_string())?;
        let count = survey.session.count().await.map_err(|error| error.to_string())?;
        let rights = survey.session.may_patch(&survey.name).await;
        Ok::<_, String>((survey, count, rights))
    };
    match timeout(PATIENCE, looked).await {
        Ok(Ok((survey, count, rights))) => {
            let words = survey.words;
            Answer { words, ..Answer::known(findings(&survey, count, rights), survey.network) }
        }
        Ok(Err(detail)) => Answer::trouble(Finding::fail("source", detail, "docs/operations.md has what cures it")),
        Err(_) => {
            let detail = format!("the Kubernetes API server gave no answer within {} s", PATIENCE.as_secs());
            let cure = "is it running, and are --kube-api-url and --kubeconfig-file right";
            Answer::trouble(Finding::fail("source", detail, cure))
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
    findings
}
