//! Certificates and tokens of a test's cluster, by openssl.

use std::{fs, path::Path, process::Command};

use crate::temp::TempDir;

/// What is kept of them in memory.
#[derive(Debug)]
pub(super) struct Keys {
    /// The token of one who may do everything.
    pub(super) administrator: String,
}

impl Keys {
    /// An authority, a certificate for the API server, the keys of service accounts, and an administrator's token.
    pub(super) fn new(directory: &TempDir) -> Self {
        let path = directory.path();
        authority(path, "ca");
        // Another one, which vouches for the API server as a front proxy.
        authority(path, "front-ca");
        client(path, "front-ca", "front", "/CN=front-proxy-client");
        openssl(path, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out accounts.key");
        openssl(path, "pkey -in accounts.key -pubout -out accounts.pub");
        let administrator =
            fs::read_to_string("/proc/sys/kernel/random/uuid").expect("procfs").trim().to_owned();
        directory.file("tokens.csv", format!("{administrator},admin,admin,system:masters\n"));
        let this = Self { administrator };
        this.server(path, "server");
        this
    }

    /// A certificate for a server on loopback, from the authority.
    pub(super) fn server(&self, path: &Path, name: &str) {
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,DNS:podmeter-adapter.shop.svc";
        let request = format!(
            "req -x509 -CA ca.crt -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -batch -subj /CN={name} -keyout {name}.key -out {name}.crt -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth -addext {names}"
        );
        _ = fs::remove_file(path.join(format!("{name}.key")));
        openssl(path, &request);
    }
}

impl Keys {
    /// A certificate for the kubelet of a node, as a client.
    pub(super) fn node(&self, path: &Path, node: &str) {
        client(path, "ca", "node", &format!("/O=system:nodes/CN=system:node:{node}"));
    }
}

/// An authority.
pub(super) fn authority(path: &Path, name: &str) {
    let request = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -batch -subj /CN=test-{name} -keyout {name}.key -out {name}.crt -addext keyUsage=critical,keyCertSign,digitalSignature"
    );
    openssl(path, &request);
}

/// A certificate that is good for this second alone, for a client, and for a server on loopback.
pub(super) fn expired(directory: &TempDir, authority: &str, name: &str, subject: &str) {
    let path = directory.path();
    directory.file(
        "expired.ext",
        "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=IP:127.0.0.1\n",
    );
    let request = format!(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -subj {subject} -keyout {name}.key -out {name}.csr"
    );
    openssl(path, &request);
    let sign = format!(
        "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 0 -extfile expired.ext -out {name}.crt"
    );
    openssl(path, &sign);
}

/// A certificate for a client, from an authority.
pub(super) fn client(path: &Path, authority: &str, name: &str, subject: &str) {
    let request = format!(
        "req -x509 -CA {authority}.crt -CAkey {authority}.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -batch -subj {subject} -keyout {name}.key -out {name}.crt -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=clientAuth"
    );
    openssl(path, &request);
}

fn openssl(directory: &Path, line: &str) {
    let output =
        Command::new("openssl").args(line.split(' ')).current_dir(directory).output().expect("openssl");
    assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
}
