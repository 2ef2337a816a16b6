//! A real Kubernetes API server with its etcd, on loopback; gone, with all that it knew, when dropped.

mod controllers;
pub mod following;
mod keys;
pub mod kubelet;

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use self::keys::Keys;
use crate::{machine::free_port, process::signal, temp::TempDir, wait};

/// The namespace of the tests' pods.
pub const NAMESPACE: &str = "shop";

/// The control plane.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    keys: Keys,
    port: u16,
    etcd: Child,
    server: Option<Child>,
    controllers: Vec<Child>,
    options: Options,
}

/// What a control plane is to be like.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// With controllers, which each namespace gets an account from.
    is_whole: bool,
    /// Without a feature that is on by default, as servers were before they had it.
    without: Option<&'static str>,
}

/// A program that `cargo xtask test` builds.
///
/// # Panics
/// When it did not.
pub fn program(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("`cargo xtask test` builds Kubernetes' programs; or set {variable} to the path of one")
    });
    path.into()
}

impl Cluster {
    /// Starts it, with a namespace for pods.
    ///
    /// # Panics
    /// When it does not come up, with what it logged.
    pub fn start() -> Self {
        Self::begin(Options::default())
    }

    /// As [`Self::start`], without a feature, by its gate.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_without(feature: &'static str) -> Self {
        Self::begin(Options { without: Some(feature), ..Options::default() })
    }

    fn begin(options: Options) -> Self {
        let directory = TempDir::new("cluster");
        let keys = Keys::new(&directory);
        let url = format!("unix://{}/etcd.sock", directory.path().display());
        let peers = format!("unix://{}/peers.sock", directory.path().display());
        let etcd = spawn(
            &directory,
            Command::new(program("PODMETER_ETCD")).args([
                "--name=test",
                "--unsafe-no-fsync",
                "--log-level=warn",
                &format!("--data-dir={}/etcd", directory.path().display()),
                &format!("--listen-client-urls={url}"),
                &format!("--advertise-client-urls={url}"),
                &format!("--listen-peer-urls={peers}"),
                &format!("--initial-advertise-peer-urls={peers}"),
                &format!("--initial-cluster=test={peers}"),
            ]),
            "etcd",
        );
        let port = free_port();
        let mut this = Self { directory, keys, port, etcd, server: None, controllers: Vec::new(), options };
        this.start_server();
        this.create("/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}}));
        this
    }

    /// Starts the API server, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead.
    pub fn start_server(&mut self) {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(program("PODMETER_KUBE_APISERVER"));
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--etcd-compaction-interval=0",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--service-cluster-ip-range=127.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--profiling=false",
        ]);
        if let Some(feature) = self.options.without {
            command.arg(format!("--feature-gates={feature}=false"));
        }
        if !self.options.is_whole {
            // There is no controller that would make each namespace an account.
            command.arg("--disable-admission-plugins=ServiceAccount");
        }
        for (flag, value) in [
            ("etcd-servers", format!("unix://{}", file("etcd.sock"))),
            ("secure-port", self.port.to_string()),
            ("cert-dir", file("")),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            ("service-account-key-file", file("accounts.pub")),
            ("service-account-signing-key-file", file("accounts.key")),
            ("token-auth-file", file("tokens.csv")),
            ("requestheader-client-ca-file", file("front-ca.crt")),
            ("requestheader-allowed-names", "front-proxy-client".to_owned()),
            ("requestheader-username-headers", "X-Remote-User".to_owned()),
            ("requestheader-group-headers", "X-Remote-Group".to_owned()),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
            ("proxy-client-cert-file", file("front.crt")),
            ("proxy-client-key-file", file("front.key")),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        self.server = Some(spawn(&self.directory, &mut command, "kube-apiserver"));
        wait::until("the API server", || {
            let server = self.server.as_mut().expect("started");
            if let Some(status) = server.try_wait().expect("our own child") {
                panic!("the API server ended: {status}\n{}", self.log("kube-apiserver"));
            }
            (self.get("/readyz").0 == 200).then_some(())
        });
    }

    /// Ends the API server. What it knew is in etcd.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop_server(&mut self) {
        end(self.server.as_mut().expect("it runs"));
        self.server = None;
    }

    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// Where the API server is.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who signs the cluster's certificates.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// The token of one who may do everything.
    pub fn administrator(&self) -> &str {
        &self.keys.administrator
    }

    /// Makes a certificate for a server on loopback: it, and its key.
    ///
    /// # Panics
    /// Without openssl.
    pub fn certificate(&self, name: &str) -> [PathBuf; 2] {
        self.keys.server(self.directory.path(), name);
        ["crt", "key"].map(|kind| self.directory.path().join(format!("{name}.{kind}")))
    }

    /// Makes a certificate for a client, by the authority for users (`ca`) or that for front proxies (`front-ca`): it, and its key.
    ///
    /// # Panics
    /// Without openssl.
    pub fn client_certificate(&self, authority: &str, name: &str, subject: &str) -> [PathBuf; 2] {
        keys::client(self.directory.path(), authority, name, subject);
        ["crt", "key"].map(|kind| self.directory.path().join(format!("{name}.{kind}")))
    }

    /// As [`Self::client_certificate`], of a certificate that expires at once; it is for a server on loopback as well.
    ///
    /// # Panics
    /// Without openssl.
    pub fn expired_certificate(&self, authority: &str, name: &str, subject: &str) -> [PathBuf; 2] {
        keys::expired(&self.directory, authority, name, subject);
        ["crt", "key"].map(|kind| self.directory.path().join(format!("{name}.{kind}")))
    }

    /// Makes another authority, beside the others; its certificate.
    ///
    /// # Panics
    /// Without openssl.
    pub fn make_authority(&self, name: &str) -> PathBuf {
        keys::authority(self.directory.path(), name);
        self.directory.path().join(format!("{name}.crt"))
    }

    /// What is at a path, in a form that a client prefers.
    ///
    /// # Panics
    /// When it is no JSON, or an error.
    pub fn ask_for(&self, path: &str, accept: &str) -> Value {
        let text = self.fetch(&format!("https://127.0.0.1:{}{path}", self.port), Some(accept));
        serde_json::from_str(&text).expect("JSON")
    }

    /// What is at a URL of someone of this cluster, as its administrator reads it.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn fetch(&self, url: &str, accept: Option<&str>) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--noproxy", "*"]);
        command.arg("--cacert").arg(self.authority()).arg("--header");
        command.arg(format!("Authorization: Bearer {}", self.keys.administrator));
        command.args(accept.iter().flat_map(|accept| ["--header".to_owned(), format!("Accept: {accept}")]));
        let output = command.arg(url).output().expect("curl");
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks the API server as its administrator: the status code, and the answer.
    ///
    /// # Panics
    /// Without curl.
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let authorization = format!("Authorization: Bearer {}", self.keys.administrator);
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--noproxy", "*", "--write-out", "\n%{http_code}"]);
        command.arg("--cacert").arg(self.authority());
        command.args([
            "--request",
            method,
            "--header",
            &authorization,
            "--header",
            &format!("Content-Type: {kind}"),
        ]);
        if body.is_some() {
            command.args(["--data-binary", "@-"]);
        }
        let child = command.arg(url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("curl");
        let mut input = child.stdin.take().expect("piped");
        if let Some(body) = body {
            input.write_all(body.to_string().as_bytes()).expect("a pipe");
        }
        drop(input);
        let output = child.wait_with_output().expect("our own child");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, code) = text.rsplit_once('\n').expect("a status code");
        (code.parse().expect("a number"), serde_json::from_str(answer).unwrap_or(Value::Null))
    }

    /// What is at a path.
    pub fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "application/json", None)
    }

    /// Makes an object.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        let (code, answer) = self.ask("POST", path, "application/json", Some(object));
        assert!(matches!(code, 200 | 201), "{path}: {code} {answer}");
        answer
    }

    /// Changes an object.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn patch(&self, path: &str, change: &Value) -> Value {
        let (code, answer) = self.ask("PATCH", path, "application/merge-patch+json", Some(change));
        assert_eq!(code, 200, "{path}: {answer}");
        answer
    }

    /// Deletes an object, at once.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn delete(&self, path: &str) {
        let at_once = json!({"gracePeriodSeconds": 0});
        let (code, answer) = self.ask("DELETE", path, "application/json", Some(&at_once));
        assert!(matches!(code, 200 | 202), "{path}: {code} {answer}");
    }

    /// Makes a service account, and a token for it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn account(&self, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        self.create(&path, &json!({"metadata": {"name": name}}));
        self.token(name)
    }

    /// A new token for a service account.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn token(&self, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token");
        let answer = self.create(&path, &json!({"spec": {"expirationSeconds": 3600}}));
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Gives a service account a role of these rules.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn grant(&self, account: &str, role: &str, rules: &Value) {
        const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
        self.create(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": role}, "rules": rules}));
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        });
        self.create(&format!("{RBAC}/clusterrolebindings"), &binding);
    }

    /// Takes a role away from who has it.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn revoke(&self, role: &str) {
        for kind in ["clusterrolebindings", "clusterroles"] {
            self.delete(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}/{role}"));
        }
    }
}

fn spawn(directory: &TempDir, command: &mut Command, name: &str) -> Child {
    let path = directory.path().join(format!("{name}.log"));
    let log = fs::OpenOptions::new().create(true).append(true).open(path).expect("a log");
    let error = log.try_clone().expect("a second one");
    command.stdin(Stdio::null()).stdout(log).stderr(error);
    command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn end(child: &mut Child) {
    signal(child.id(), "TERM");
    child.wait().expect("our own child");
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the API server's last words:\n{}", self.log("kube-apiserver"));
            println!("the controllers' last words:\n{}", self.log("kube-controller-manager"));
        }
        // The server wants its etcd when it ends in good order; nobody needs that here.
        for child in self.controllers.iter_mut().chain(&mut self.server).chain([&mut self.etcd]) {
            _ = child.kill();
            _ = child.wait();
        }
    }
}
