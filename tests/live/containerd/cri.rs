//! The runtime's own API, as a kubelet speaks it: CRI v1.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime};
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::message::{self, Identity};

/// How long the runtime may take for one thing, in a guest.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the runtime.
pub(super) struct Cri {
    channel: Channel,
    runtime: runtime::Runtime,
}

impl Cri {
    /// Connects.
    pub(super) fn new(socket: &str) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let socket = PathBuf::from(socket);
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is none: every connection is to the socket.
        let endpoint = Endpoint::from_static("http://cri").timeout(PATIENCE);
        let channel =
            runtime.block_on(endpoint.connect_with_connector(connect)).expect("the runtime listens");
        Self { channel, runtime }
    }

    /// Calls a method of one of the runtime's services.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub(super) fn call<Q, A>(&self, method: &str, question: Q) -> A
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = format!("/runtime.v1.{method}").parse().expect("a path");
        let answer = self.runtime.block_on(async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.expect("the runtime listens");
            client.unary(Request::new(question), path, ProstCodec::<Q, A>::default()).await
        });
        answer.unwrap_or_else(|error| panic!("{method}: {error}")).into_inner()
    }

    /// Calls a method that is told of one sandbox or container, and answers nothing.
    pub(super) fn tell(&self, method: &str, id: &str) {
        let method = format!("RuntimeService/{method}");
        let _: message::Nothing = self.call(&method, Identity { id: id.to_owned() });
    }

    /// Runs a command in a container to its end, as `kubectl exec` does; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub(super) fn run(&self, container: &str, script: &str) -> String {
        let question = message::Execute {
            container: container.to_owned(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            timeout: 0,
        };
        let answer: message::Executed = self.call("RuntimeService/ExecSync", question);
        let [said, complained] =
            [answer.out, answer.error].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(answer.code, 0, "{script}: {said}{complained}");
        said
    }
}
