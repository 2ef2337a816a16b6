//! The container runtime of this node, by its CRI socket: it knows of no API server, but of every container and sandbox.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    asked::Source,
    pod::{Container, Pod},
};

/// Where runtimes listen: containerd, CRI-O, k3s, k0s, MicroK8s, cri-dockerd.
const SOCKETS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/cri-dockerd.sock",
];
const PATIENCE: Duration = Duration::from_secs(10);
/// `CONTAINER_RUNNING`.
const RUNNING: i32 = 1;

/// The messages of CRI v1 that are needed, and of them the fields that are.
mod message {
    use std::collections::HashMap;

    /// Asks for all of them.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Everything {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sandboxes {
        #[prost(message, repeated, tag = "1")]
        pub(super) items: Vec<Sandbox>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sandbox {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(message, optional, tag = "2")]
        pub(super) metadata: Option<SandboxMetadata>,
        #[prost(map = "string, string", tag = "5")]
        pub(super) labels: HashMap<String, String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SandboxMetadata {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) uid: String,
        #[prost(string, tag = "3")]
        pub(super) namespace: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Containers {
        #[prost(message, repeated, tag = "1")]
        pub(super) items: Vec<Container>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Container {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(string, tag = "2")]
        pub(super) sandbox: String,
        #[prost(message, optional, tag = "3")]
        pub(super) metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = "4")]
        pub(super) image: Option<Image>,
        /// 1 is running.
        #[prost(int32, tag = "6")]
        pub(super) state: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ContainerMetadata {
        #[prost(string, tag = "1")]
        pub(super) name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Image {
        /// Its name or its hash.
        #[prost(string, tag = "1")]
        pub(super) image: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Images {
        #[prost(message, repeated, tag = "1")]
        pub(super) items: Vec<Stored>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Stored {
        /// Its hash.
        #[prost(string, tag = "1")]
        pub(super) id: String,
        /// Its names.
        #[prost(string, repeated, tag = "2")]
        pub(super) tags: Vec<String>,
    }
}

/// A client of the runtime.
pub(super) struct Cri {
    socket: Option<PathBuf>,
    channel: Option<Channel>,
}

impl Cri {
    /// Not connected yet.
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, channel: None }
    }

    async fn channel(&mut self) -> anyhow::Result<Channel> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let usual = || SOCKETS.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(socket) = self.socket.clone().or_else(usual) else {
            bail!("there is none of {}; give --cri-socket", SOCKETS.join(", "));
        };
        // The address is none: every connection is to the socket.
        let endpoint = Endpoint::from_static("http://cri").connect_timeout(PATIENCE).timeout(PATIENCE);
        let path = socket.clone();
        let connect = service_fn(move |_: Uri| connect(path.clone()));
        let channel = endpoint.connect_with_connector(connect).await;
        let channel = channel.with_context(|| format!("cannot connect to {}", socket.display()))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    async fn lists(&mut self) -> anyhow::Result<Lists> {
        let channel = self.channel().await?;
        let sandboxes: message::Sandboxes =
            call(&channel, "/runtime.v1.RuntimeService/ListPodSandbox").await?;
        let containers: message::Containers =
            call(&channel, "/runtime.v1.RuntimeService/ListContainers").await?;
        let images: message::Images = call(&channel, "/runtime.v1.ImageService/ListImages").await?;
        Ok(Lists { sandboxes: sandboxes.items, containers: containers.items, images: images.items })
    }
}

/// What the runtime has.
struct Lists {
    sandboxes: Vec<message::Sandbox>,
    containers: Vec<message::Container>,
    images: Vec<message::Stored>,
}

async fn connect(socket: impl AsRef<Path>) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(socket).await?))
}

async fn call<T: prost::Message + Default + 'static>(
    channel: &Channel,
    path: &'static str,
) -> anyhow::Result<T> {
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    client.ready().await?;
    let codec = ProstCodec::<message::Everything, T>::default();
    let request = Request::new(message::Everything {});
    Ok(client
        .unary(request, Uri::from_static(path).into_parts().path_and_query.context("a path")?, codec)
        .await?
        .into_inner())
}

impl Source for Cri {
    const NAME: &str = "the container runtime";
    const RULE: &str = "(none: the socket's file must be ours to open)";

    async fn ask(&mut self) -> anyhow::Result<Vec<Pod>> {
        let lists = self.lists().await.inspect_err(|_| self.channel = None)?;
        Ok(pods(lists))
    }
}

/// Puts together what the runtime has in lists. A pod may have had several sandboxes.
fn pods(Lists { sandboxes, containers, images }: Lists) -> Vec<Pod> {
    let names = images.iter().filter_map(|image| Some((&*image.id, &**image.tags.first()?)));
    let names: HashMap<&str, &str> = names.collect();
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    let mut uids = HashMap::new();
    for sandbox in sandboxes {
        let Some(metadata) = sandbox.metadata else { continue };
        uids.insert(sandbox.id.clone(), metadata.uid.clone());
        let pod = pods.entry(metadata.uid.clone()).or_insert_with(|| Pod {
            uid: metadata.uid.clone(),
            cgroup_uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            labels: sandbox.labels.into_iter().collect(),
            ..Pod::default()
        });
        pod.sandboxes.push(sandbox.id);
    }
    for container in containers {
        let Some(pod) = uids.get(&container.sandbox).and_then(|uid| pods.get_mut(uid)) else { continue };
        let Some(name) = container.metadata.map(|metadata| metadata.name) else { continue };
        let image = container.image.unwrap_or_default().image;
        let image = names.get(&*image).map_or(image.clone(), |name| (*name).to_owned());
        // Of a container that has run before, the runtime keeps the last run or two.
        match pod.containers.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.ids.push(container.id);
                known.is_running |= container.state == RUNNING;
            }
            None => {
                pod.containers.push(Container {
                    name,
                    image,
                    ids: vec![container.id],
                    is_running: container.state == RUNNING,
                    ..Container::default()
                });
            }
        }
    }
    pods.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::{
        message::{ContainerMetadata, Image, Sandbox, SandboxMetadata, Stored},
        *,
    };

    #[test]
    fn the_lists_make_pods() {
        let sandbox = |id: &str, uid: &str| Sandbox {
            id: id.to_owned(),
            metadata: Some(SandboxMetadata {
                name: "web".to_owned(),
                uid: uid.to_owned(),
                namespace: "shop".to_owned(),
            }),
            ..Sandbox::default()
        };
        let container = |id: &str, sandbox: &str, name: &str, image: &str| message::Container {
            id: id.to_owned(),
            sandbox: sandbox.to_owned(),
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(Image { image: image.to_owned() }),
            state: i32::from(id == "b"),
        };
        let pods = pods(Lists {
            sandboxes: vec![sandbox("s1", "u1"), sandbox("s2", "u1"), sandbox("s3", "u2")],
            containers: vec![
                container("a", "s1", "app", "sha256:1"),
                container("b", "s2", "app", "sha256:1"),
                container("c", "s3", "other", "sha256:2"),
                container("d", "gone", "lost", "x"),
            ],
            images: vec![Stored { id: "sha256:1".to_owned(), tags: vec!["app:1".to_owned()] }],
        });
        assert_eq!(pods.len(), 2);
        assert_eq!((&*pods[0].cgroup_uid, &*pods[0].namespace, pods[0].sandboxes.len()), ("u1", "shop", 2));
        assert_eq!(pods[0].container("b").map(|app| (&*app.name, &*app.image)), Some(("app", "app:1")));
        assert_eq!(pods[0].container("a"), pods[0].container("b"), "two runs of one container");
        assert!(pods[0].containers[0].is_running && !pods[1].containers[0].is_running);
        assert_eq!(pods[1].containers[0].image, "sha256:2", "without a name");
    }
}
