//! The real controller manager and scheduler: who makes pods of Deployments and DaemonSets, and finds nodes for them.

use std::{net::TcpListener, process::Command};

use serde_json::json;

use super::{Cluster, Options, program, spawn};
use crate::wait;

impl Cluster {
    /// Starts a whole control plane: what is wanted becomes pods, each has an account's token, and each gets a node.
    ///
    /// # Panics
    /// When it does not come up, with what it logged.
    pub fn start_whole() -> Self {
        let mut this = Self::begin(Options { is_whole: true, ..Options::default() });
        let file = |name: &str| this.directory.path().join(name).display().to_string();
        let kubeconfig = this.directory.file("admin.kubeconfig", json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", this.port), "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "u", "user": {"token": this.administrator()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }).to_string());
        let start = |variable: &str, name: &str, more: &[String]| {
            let mut command = Command::new(program(variable));
            for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
                command.arg(format!("--{flag}={kubeconfig}"));
            }
            command.args(["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]);
            command.arg(format!("--secure-port={}", free_port())).arg(format!("--cert-dir={}", file(name)));
            spawn(&this.directory, command.args(more), name)
        };
        let manager = start(
            "PODMETER_KUBE_CONTROLLER_MANAGER",
            "kube-controller-manager",
            &[
                format!("--service-account-private-key-file={}", file("accounts.key")),
                format!("--root-ca-file={}", file("ca.crt")),
                // It makes the folder, which is of the machine's otherwise.
                format!("--flex-volume-plugin-dir={}", file("plugins")),
            ],
        );
        let scheduler = start("PODMETER_KUBE_SCHEDULER", "kube-scheduler", &[]);
        this.controllers = vec![manager, scheduler];
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        let works = wait::perhaps(|| (this.get(account).0 == 200).then_some(()));
        assert!(works.is_some(), "{}", this.log("kube-controller-manager"));
        this
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}
