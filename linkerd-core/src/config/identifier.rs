//! `identifier`: how a request is named.

use linkerd_dtab::Path;

use super::{
    decode::{At, Decode, Section},
    node::Value,
    value::HeaderName,
};

/// An `identifier` of an http router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpIdentifier {
    /// `io.l5d.header.token`, the default: the value of a header as one element.
    HeaderToken {
        /// `header`. Default: `Host`.
        header: HeaderName,
    },
    /// `io.l5d.header`: the value of a header as a path.
    Header {
        /// `header`. Default: `l5d-name`.
        header: HeaderName,
    },
    /// `io.l5d.methodAndHost`: version, method and host.
    MethodAndHost {
        /// `httpUriInDst`: also the path of the URI. Default: false.
        http_uri_in_dst: bool,
    },
    /// `io.l5d.path`: the beginning of the URI's path.
    Path {
        /// `segments` to take, at least 1. Default: 1.
        segments: usize,
        /// `consume`: remove them from the URI. Default: false.
        consume: bool,
    },
    /// `io.l5d.static`: always the same.
    Static {
        /// `path`. Required.
        path: Path,
    },
    /// `io.l5d.ingress`: by the rules of Kubernetes ingresses.
    Ingress(IngressIdentifier),
    /// `io.l5d.k8s.istio`: by route rules of Istio 0.x.
    Istio(IstioIdentifier),
    /// `io.l5d.k8s.istio-ingress`: by Kubernetes ingresses and route rules of Istio 0.x.
    IstioIngress(IstioIdentifier, IngressIdentifier),
}

/// An `identifier` of an h2 router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum H2Identifier {
    /// `io.l5d.header.token`, the default: the value of a header as one element.
    HeaderToken {
        /// `header`. Default: `:authority`.
        header: HeaderName,
    },
    /// `io.l5d.header.path`: the beginning of a header's path.
    HeaderPath {
        /// `header`. Default: `:path`.
        header: HeaderName,
        /// `segments` to take, at least 1. Default: all.
        segments: Option<usize>,
    },
    /// `io.l5d.ingress`: by the rules of Kubernetes ingresses.
    Ingress(IngressIdentifier),
    /// `io.l5d.k8s.istio`: by route rules of Istio 0.x.
    Istio(IstioIdentifier),
    /// `io.l5d.k8s.istio-ingress`: by Kubernetes ingresses and route rules of Istio 0.x.
    IstioIngress(IstioIdentifier, IngressIdentifier),
}

/// The keys of `io.l5d.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressIdentifier {
    /// `host` of the API. Default: `localhost`.
    pub host: String,
    /// `port` of the API. Default: 8001.
    pub port: u16,
    /// `namespace`. Default: all.
    pub namespace: Option<String>,
    /// `ingressClassAnnotation` (`annotationClass` in `io.l5d.k8s.istio-ingress`). Default: `linkerd`.
    pub ingress_class: String,
    /// `ignoreDefaultBackends`. Default: false.
    pub ignore_default_backends: bool,
}

/// The keys of `io.l5d.k8s.istio`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstioIdentifier {
    /// `discoveryHost`. Default: `istio-pilot`.
    pub discovery_host: String,
    /// `discoveryPort`. Default: 8080.
    pub discovery_port: u16,
    /// `apiserverHost`. Default: `istio-pilot`.
    pub apiserver_host: String,
    /// `apiserverPort`. Default: 8081.
    pub apiserver_port: u16,
}

const HTTP_KINDS: [&str; 8] = [
    "io.l5d.header.token",
    "io.l5d.header",
    "io.l5d.methodAndHost",
    "io.l5d.path",
    "io.l5d.static",
    "io.l5d.ingress",
    "io.l5d.k8s.istio",
    "io.l5d.k8s.istio-ingress",
];

const H2_KINDS: [&str; 5] =
    ["io.l5d.header.token", "io.l5d.header.path", "io.l5d.ingress", "io.l5d.k8s.istio", "io.l5d.k8s.istio-ingress"];

impl Default for HttpIdentifier {
    fn default() -> Self {
        Self::HeaderToken { header: HeaderName("Host".to_owned()) }
    }
}

impl Default for H2Identifier {
    fn default() -> Self {
        Self::HeaderToken { header: HeaderName(":authority".to_owned()) }
    }
}

/// One identifier or a list of them, which must not be empty.
pub(super) fn one_or_more<T: Decode>(at: &At<'_>) -> Option<Vec<T>> {
    match &at.node.value {
        Value::List(items) if items.is_empty() => {
            at.problem("must not be an empty list");
            None
        }
        Value::List(_) => at.list(T::decode),
        _ => T::decode(at).map(|identifier| vec![identifier]),
    }
}

impl Decode for HttpIdentifier {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "identifier")?;
        let header = |s: &mut Section<'_>, default: &str| s.or("header", HeaderName(default.to_owned()));
        let identifier = match s.kind("kind", &HTTP_KINDS, None)? {
            "io.l5d.header.token" => Some(Self::HeaderToken { header: header(&mut s, "Host") }),
            "io.l5d.header" => Some(Self::Header { header: header(&mut s, "l5d-name") }),
            "io.l5d.methodAndHost" => Some(Self::MethodAndHost { http_uri_in_dst: s.or("httpUriInDst", false) }),
            "io.l5d.path" => {
                let segments = s.size("segments", 1).unwrap_or(1);
                Some(Self::Path { segments, consume: s.or("consume", false) })
            }
            "io.l5d.static" => s.require("path").map(|path| Self::Static { path }),
            "io.l5d.ingress" => Some(Self::Ingress(IngressIdentifier::decode(&mut s, "ingressClassAnnotation"))),
            "io.l5d.k8s.istio" => Some(Self::Istio(IstioIdentifier::decode(&mut s))),
            _ => {
                let istio = IstioIdentifier::decode(&mut s);
                Some(Self::IstioIngress(istio, IngressIdentifier::decode(&mut s, "annotationClass")))
            }
        };
        s.finish();
        identifier
    }
}

impl Decode for H2Identifier {
    fn decode(at: &At<'_>) -> Option<Self> {
        let mut s = Section::open(at, "identifier")?;
        let header = |s: &mut Section<'_>, default: &str| s.or("header", HeaderName(default.to_owned()));
        let identifier = match s.kind("kind", &H2_KINDS, None)? {
            "io.l5d.header.token" => Self::HeaderToken { header: header(&mut s, ":authority") },
            "io.l5d.header.path" => {
                let header = header(&mut s, ":path");
                Self::HeaderPath { header, segments: s.size("segments", 1) }
            }
            "io.l5d.ingress" => Self::Ingress(IngressIdentifier::decode(&mut s, "ingressClassAnnotation")),
            "io.l5d.k8s.istio" => Self::Istio(IstioIdentifier::decode(&mut s)),
            _ => {
                let istio = IstioIdentifier::decode(&mut s);
                Self::IstioIngress(istio, IngressIdentifier::decode(&mut s, "annotationClass"))
            }
        };
        s.finish();
        Some(identifier)
    }
}

impl IngressIdentifier {
    fn decode(s: &mut Section<'_>, class_key: &'static str) -> Self {
        Self {
            host: s.or("host", "localhost".to_owned()),
            port: s.or("port", 8001),
            namespace: s.get("namespace"),
            ingress_class: s.or(class_key, "linkerd".to_owned()),
            ignore_default_backends: class_key == "ingressClassAnnotation" && s.or("ignoreDefaultBackends", false),
        }
    }
}

impl IstioIdentifier {
    fn decode(s: &mut Section<'_>) -> Self {
        Self {
            discovery_host: s.or("discoveryHost", "istio-pilot".to_owned()),
            discovery_port: s.or("discoveryPort", 8080),
            apiserver_host: s.or("apiserverHost", "istio-pilot".to_owned()),
            apiserver_port: s.or("apiserverPort", 8081),
        }
    }
}
