//! The real controller manager and scheduler: who makes pods of Deployments and DaemonSets, and finds nodes for them.

use std::process::Command;

use serde_json::json;

use super::{Cluster, NAMESPACE, Options, program, spawn};
use crate::{machine::free_port, wait};

impl Cluster {
    /// Starts a whole control plane: what is wanted becomes pods, each has an account's token, and each gets a node.
    ///
    /// # Panics
    /// When it does not come up, with what it logged.
    pub fn start_whole() -> Self {
        let mut this = Self::begin(Options { is_whole: true, ..Options::default() });
        let file = |name: &str| this.directory.path().join(name).display().to_string();
        let kubeconfig = this.kubeconfig();
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

    /// Starts the controllers of Deployments, ReplicaSets and HorizontalPodAutoscalers; the last look every second, and not every
    /// fifteen as they do by default.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn start_controllers(&mut self) {
        let names = "horizontal-pod-autoscaler-controller,deployment-controller,replicaset-controller";
        self.start_some(names, &["--horizontal-pod-autoscaler-sync-period=1s"]);
    }

    /// Starts the controller of HorizontalPodAutoscalers alone, as it is by default: nobody does what it decides.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn start_autoscaler(&mut self) {
        self.start_some("horizontal-pod-autoscaler-controller", &[]);
    }

    fn start_some(&mut self, names: &str, flags: &[&str]) {
        let port = free_port();
        let config = self.kubeconfig();
        let mut command = Command::new(program("PODMETER_KUBE_CONTROLLER_MANAGER"));
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]).args(flags);
        command.arg(format!("--controllers={names}"));
        command.arg(format!("--secure-port={port}")).arg(format!("--kubeconfig={config}"));
        for flag in ["cert-dir", "flex-volume-plugin-dir"] {
            command.arg(format!("--{flag}={}", self.directory.path().display()));
        }
        self.controllers.push(spawn(&self.directory, &mut command, "kube-controller-manager"));
    }

    /// The path of an administrator's configuration.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_of("admin", &self.keys.administrator)
    }

    /// The path of the configuration of one who has this token.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "certificate-authority": self.authority()}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        });
        self.directory.file(&format!("{name}.json"), config.to_string())
    }

    /// Runs kubectl as the administrator: whether it ended well, and what it printed.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program("PODMETER_KUBECTL"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig()));
        // It keeps what it discovers.
        command.arg(format!("--cache-dir={}/kubectl", self.directory.path().display()));
        let output = command.args(arguments).output().expect("kubectl");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}
