//! What a request asks for, by its path and query.

use axum::http::{Method, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    metric::Metrics,
    refusal::Refusal,
    selector::{Fields, Selector},
};

/// A path and its query are shorter.
const MOST: usize = 16 * 1024;

/// The groups of the metrics APIs, each with the versions that are served, the preferred one first.
pub const GROUPS: [(&str, &[&str]); 3] =
    [(METRICS, &["v1beta1"]), (CUSTOM, &["v1beta2", "v1beta1"]), (EXTERNAL, &["v1beta1"])];
/// CPU and memory of pods and nodes.
pub const METRICS: &str = "metrics.k8s.io";
/// Everything else, of objects.
pub const CUSTOM: &str = "custom.metrics.k8s.io";
/// Everything else, by selector.
pub const EXTERNAL: &str = "external.metrics.k8s.io";

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// `/livez`, `/readyz`, `/healthz`: whether it is about being ready.
    Health(bool),
    /// `/apis`.
    Groups,
    /// `/apis/G`.
    Group(&'static str),
    /// `/apis/G/V`.
    Resources(&'static str, &'static str),
    /// Pods; all of them, those of a namespace, or one.
    Pods {
        /// The namespace; without one, all.
        namespace: Option<String>,
        /// The name; without one, all.
        name: Option<String>,
    },
    /// Nodes, or one.
    Nodes {
        /// The name; without one, all.
        name: Option<String>,
    },
    /// A metric of an object, or of all whose labels are as asked.
    Custom {
        /// The version of the API.
        version: &'static str,
        /// The namespace.
        namespace: Option<String>,
        /// The resource, perhaps with its group.
        resource: String,
        /// The name, or `*`.
        name: String,
        /// The metric.
        metric: String,
    },
    /// A metric by selector.
    External {
        /// The namespace.
        namespace: String,
        /// The metric.
        metric: String,
    },
    /// `/openapi/v2`.
    Description,
    /// Another path, which may exist for whoever may ask.
    Other,
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What for.
    pub what: What,
    /// The path as it came.
    pub path: String,
    /// What labels must be like.
    pub labels: Selector,
    /// What names must be like.
    pub fields: Fields,
    /// What the series must be like, of a metric.
    pub series: Selector,
}

impl Ask {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is none that is answered.
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self, Refusal> {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        if path.len() + query.len() > MOST {
            return Err(Refusal::too_long());
        }
        let segments = path.split('/').filter(|segment| !segment.is_empty()).map(segment);
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let what = what(&segments)?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::method("the server does not allow this method on the requested resource"));
        }
        let mut this = Self {
            what,
            path: path.to_owned(),
            labels: Selector::default(),
            fields: Fields::default(),
            series: Selector::default(),
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "labelSelector" => this.labels = Selector::parse(&value)?,
                "fieldSelector" => this.fields = Fields::parse(&value)?,
                "metricLabelSelector" => this.series = Selector::parse(&value)?,
                "watch" if matches!(&*value, "" | "true" | "1") => {
                    return Err(Refusal::method("metrics cannot be watched"));
                }
                _ => {}
            }
        }
        Ok(this)
    }

    /// Reads a GET of a path with its query.
    ///
    /// # Errors
    /// As [`Self::parse`], and where it is no path.
    pub fn of(path: &str) -> Result<Self, Refusal> {
        let uri = path.parse().map_err(|_| Refusal::bad("this is no path"))?;
        Self::parse(&Method::GET, &uri)
    }

    /// Whether it is about a metric that is not ours.
    pub fn is_of_others(&self, metrics: &Metrics) -> bool {
        match &self.what {
            What::Custom { metric, .. } | What::External { metric, .. } => metrics.find(metric).is_none(),
            _ => false,
        }
    }

    /// What the API server's rules call it, for a SubjectAccessReview.
    pub fn attributes(&self) -> Value {
        let resource = |verb: &str,
                        group: &str,
                        version: &str,
                        namespace: &Option<String>,
                        resource: &str,
                        subresource: &str,
                        name: &Option<String>| {
            let mut attributes =
                json!({"verb": verb, "group": group, "version": version, "resource": resource});
            let namespace = namespace.as_deref();
            for (key, value) in
                [("namespace", namespace), ("subresource", Some(subresource)), ("name", name.as_deref())]
            {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    attributes[key] = value.into();
                }
            }
            json!({"resourceAttributes": attributes})
        };
        let verb = |name: &Option<String>| if name.is_some() { "get" } else { "list" };
        match &self.what {
            What::Pods { namespace, name } => {
                resource(verb(name), METRICS, "v1beta1", namespace, "pods", "", name)
            }
            What::Nodes { name } => resource(verb(name), METRICS, "v1beta1", &None, "nodes", "", name),
            What::Custom { version, namespace, resource: of, name, metric } => {
                // To the API server a metric of a namespace is a thing called `metrics` of that name.
                let (of, metric, name) =
                    if of == "namespaces" { ("metrics", "", metric) } else { (&**of, &**metric, name) };
                resource("get", CUSTOM, version, namespace, of, metric, &Some(name.clone()))
            }
            What::External { namespace, metric } => {
                resource("list", EXTERNAL, "v1beta1", &Some(namespace.clone()), metric, "", &None)
            }
            _ => json!({"nonResourceAttributes": {"path": self.path, "verb": "get"}}),
        }
    }
}

/// A segment of a path, decoded once.
fn segment(text: &str) -> Result<String, Refusal> {
    let is_encoded_well = text
        .split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    let decoded = percent_decode_str(text).decode_utf8().ok().filter(|_| is_encoded_well);
    let decoded = decoded.ok_or_else(|| Refusal::bad("the path is not encoded as a path is"))?;
    if matches!(&*decoded, "." | "..") || decoded.contains(['/', '\0']) {
        return Err(Refusal::bad("no name is `.` or `..`, or has a slash"));
    }
    Ok(decoded.into_owned())
}

fn what(segments: &[&str]) -> Result<What, Refusal> {
    let own = |name: &str| Some(name.to_owned());
    let known = |group: &str, version: &str| {
        let (group, versions) = GROUPS.iter().find(|(known, _)| *known == group)?;
        versions.iter().find(|known| **known == version).map(|version| (*group, *version))
    };
    Ok(match *segments {
        ["livez" | "healthz"] => What::Health(false),
        ["readyz"] => What::Health(true),
        ["openapi", "v2"] => What::Description,
        ["apis"] => What::Groups,
        ["apis", group] => match GROUPS.iter().find(|(known, _)| *known == group) {
            Some((group, _)) => What::Group(group),
            None => What::Other,
        },
        ["apis", group, version, ref rest @ ..] => {
            let Some((group, version)) = known(group, version) else { return Ok(What::Other) };
            match (group, rest) {
                (group, []) => What::Resources(group, version),
                (METRICS, ["nodes"]) => What::Nodes { name: None },
                (METRICS, ["nodes", name]) => What::Nodes { name: own(name) },
                (METRICS, ["pods"]) => What::Pods { namespace: None, name: None },
                (METRICS, ["namespaces", namespace, "pods"]) => {
                    What::Pods { namespace: own(namespace), name: None }
                }
                (METRICS, ["namespaces", namespace, "pods", name]) => {
                    What::Pods { namespace: own(namespace), name: own(name) }
                }
                (CUSTOM, ["namespaces", namespace, "metrics", metric]) => What::Custom {
                    version,
                    namespace: own(namespace),
                    resource: "namespaces".to_owned(),
                    name: (*namespace).to_owned(),
                    metric: (*metric).to_owned(),
                },
                (CUSTOM, ["namespaces", namespace, resource, name, metric]) => What::Custom {
                    version,
                    namespace: own(namespace),
                    resource: (*resource).to_owned(),
                    name: (*name).to_owned(),
                    metric: (*metric).to_owned(),
                },
                (CUSTOM, [resource, name, metric]) if *resource != "namespaces" => What::Custom {
                    version,
                    namespace: None,
                    resource: (*resource).to_owned(),
                    name: (*name).to_owned(),
                    metric: (*metric).to_owned(),
                },
                (EXTERNAL, ["namespaces", namespace, metric]) => {
                    What::External { namespace: (*namespace).to_owned(), metric: (*metric).to_owned() }
                }
                _ => What::Other,
            }
        }
        _ => What::Other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(path: &str) -> Result<Ask, Refusal> {
        Ask::of(path)
    }

    #[test]
    fn reads_what_clients_send() {
        let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default";
        let asked =
            ask(&format!("{custom}/pods/%2A/rps?labelSelector=app%3Dweb&metricLabelSelector=route%3Dx"))
                .unwrap();
        assert!(matches!(&asked.what, What::Custom { name, metric, .. } if name == "*" && metric == "rps"));
        assert!(!asked.labels.is_empty() && !asked.series.is_empty());
        let wanted = json!({"resourceAttributes": {
            "verb": "get", "group": CUSTOM, "version": "v1beta2", "namespace": "default", "resource": "pods",
            "subresource": "rps", "name": "*"}});
        assert_eq!(asked.attributes(), wanted);
        let asked = ask(&format!("{custom}/metrics/hits")).unwrap();
        assert_eq!(asked.attributes()["resourceAttributes"]["resource"], "metrics");
        assert_eq!(asked.attributes()["resourceAttributes"]["name"], "hits");
        let asked = ask(&format!("{custom}/ingresses.networking.k8s.io/ing/hits")).unwrap();
        assert!(
            matches!(&asked.what, What::Custom { resource, .. } if resource == "ingresses.networking.k8s.io")
        );
        let asked = ask("/apis/metrics.k8s.io/v1beta1/namespaces/d/pods?labelSelector=a").unwrap();
        assert_eq!(asked.attributes()["resourceAttributes"]["verb"], "list");
        assert_eq!(
            ask("/apis/metrics.k8s.io/v1beta1/nodes/n").unwrap().attributes()["resourceAttributes"]["verb"],
            "get"
        );
        let asked = ask("/apis/external.metrics.k8s.io/v1beta1/namespaces/d/q?labelSelector=q%3Da").unwrap();
        assert_eq!(asked.attributes()["resourceAttributes"]["resource"], "q");
        assert_eq!(
            ask("/apis/metrics.k8s.io/v1beta1").unwrap().attributes()["nonResourceAttributes"]["verb"],
            "get"
        );
        assert_eq!(ask("/openapi/v2").unwrap().what, What::Description);
        assert_eq!(ask("/openapi/v3").unwrap().what, What::Other);
        assert_eq!(ask("/apis/metrics.k8s.io/v1").unwrap().what, What::Other);
        assert_eq!(ask("/apis/external.metrics.k8s.io/v1beta1/q").unwrap().what, What::Other);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for path in ["/apis/%2e%2e", "/apis/a%2Fb", "/apis/%zz", "/apis/%f", "/apis/%ff", "/a/%00"] {
            assert_eq!(ask(path).unwrap_err().code(), 400, "{path}");
        }
        let pods = "/apis/metrics.k8s.io/v1beta1/pods";
        assert_eq!(ask(&format!("{pods}?labelSelector=a%3D%2Fx")).unwrap_err().code(), 400);
        assert_eq!(ask(&format!("{pods}?watch=true")).unwrap_err().code(), 405);
        assert_eq!(ask(&format!("{pods}?labelSelector={}", "a".repeat(17_000))).unwrap_err().code(), 414);
        assert_eq!(Ask::parse(&Method::POST, &pods.parse().unwrap()).unwrap_err().code(), 405);
    }

    proptest! {
        #[test]
        fn no_path_is_too_much(path in "/[a-z0-9%./*?=&-]{0,80}") {
            if let Ok(ask) = Ask::of(&path) {
                ask.attributes();
            }
        }
    }
}
