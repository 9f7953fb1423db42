//! A service's image is pinned to a digest by the manager that is asked, before the call goes to the leader and before anything
//! changes: an image may exist only where the user built it. Wraps the Control service, outside of the forwarding layer.
//!
//! What can't be resolved here is left to the leader ([`complete`]): it knows which nodes have an image of that name, and what the
//! service was pinned to before. What even it can't resolve stays as it was typed; the command line warns of it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use pontoon_proto::v1::{ContainerSpec, CreateServiceRequest, ServiceSpec, UpdateServiceRequest};
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use crate::config::ImageResolver;
use crate::core::Core;
use crate::forward;
use crate::layer::{self, Around, Calls, Layered};

const CREATE: &str = "/pontoon.v1.Control/CreateService";
const UPDATE: &str = "/pontoon.v1.Control/UpdateService";
/// A gRPC message's prefix: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A service whose specs come with their images pinned.
pub(crate) type Pin<S> = Layered<Pinning, S>;

/// Pins what is created and updated.
#[derive(Clone)]
pub(crate) struct Pinning {
    resolver: Option<Arc<dyn ImageResolver>>,
}

impl<S> Pin<S> {
    pub(crate) fn new(inner: S, resolver: Option<Arc<dyn ImageResolver>>) -> Self {
        Self::with(Pinning { resolver }, inner)
    }
}

impl Around for Pinning {
    async fn answer<S: Calls>(self, inner: S, request: Request<Body>) -> Response<Body> {
        let concerned = matches!(request.uri().path(), CREATE | UPDATE)
            // The manager that passed it on has done this.
            && forward::original_caller(request.headers()).is_none();
        let Some(resolver) = self.resolver.filter(|_| concerned) else {
            return layer::call(inner, request).await;
        };
        match pin(&*resolver, request).await {
            Ok(request) => layer::call(inner, request).await,
            Err(status) => status.into_http(),
        }
    }
}

async fn pin(resolver: &dyn ImageResolver, request: Request<Body>) -> Result<Request<Body>, Status> {
    let (parts, body) = request.into_parts();
    let bad = |what: String| Status::invalid_argument(format!("can't read the request: {what}"));
    let body = layer::whole(body, parts.uri.path(), layer::MAX_REQUEST).await?;
    let message = unframed(&body).map_err(|what| bad(what.to_owned()))?;
    let decoding = |error: prost::DecodeError| bad(error.to_string());
    let message = if parts.uri.path() == CREATE {
        let mut request = CreateServiceRequest::decode(message).map_err(decoding)?;
        request.resolve_image = request.resolve_image && !pin_spec(resolver, request.spec.as_mut()).await;
        request.encode_to_vec()
    } else {
        let mut request = UpdateServiceRequest::decode(message).map_err(decoding)?;
        request.resolve_image = request.resolve_image && !pin_spec(resolver, request.spec.as_mut()).await;
        request.encode_to_vec()
    };
    Ok(Request::from_parts(parts, Body::new(Full::new(framed(&message)))))
}

fn container_of(spec: &mut ServiceSpec) -> Option<&mut ContainerSpec> {
    spec.task.as_mut()?.container.as_mut()
}

/// The name that is to be pinned; none when there is nothing to pin.
fn name_of(resolver: &dyn ImageResolver, spec: &mut ServiceSpec) -> Option<String> {
    let container = container_of(spec).filter(|container| !container.image.contains('@'))?;
    resolver.name(&container.image)
}

/// Pins a spec's image; false when it could not.
async fn pin_spec(resolver: &dyn ImageResolver, spec: Option<&mut ServiceSpec>) -> bool {
    let Some((spec, name)) = spec.and_then(|spec| {
        let name = name_of(resolver, spec)?;
        Some((spec, name))
    }) else {
        return true;
    };
    let auth = spec.task.as_ref().and_then(|task| task.registry_auth.clone());
    match resolver.resolve(&name, auth.unwrap_or_default()).await {
        Ok(digest) => set(spec, format!("{name}@{digest}")),
        Err(reason) => {
            tracing::info!(image = name, reason, "this manager could not pin an image");
            return false;
        }
    }
    true
}

fn set(spec: &mut ServiceSpec, image: String) {
    if let Some(container) = container_of(spec) {
        container.image = image;
    }
}

/// Pins at the leader what the asked manager could not resolve: as the nodes have it, else as the service had it.
pub(crate) fn complete(core: &Core, wish: &mut ServiceSpec, before: Option<&ServiceSpec>) {
    let (Some(resolver), Some(leading)) = (&core.resolver, core.leading()) else {
        return;
    };
    let Some(name) = name_of(&**resolver, wish) else {
        return;
    };
    let kept = before
        .and_then(|spec| spec.task.as_ref()?.container.as_ref())
        .map(|container| container.image.as_str())
        .filter(|image| image.split_once('@').is_some_and(|(pinned, _)| pinned == name));
    match leading.sources.named(&name) {
        Ok(Some(digest)) => set(wish, format!("{name}@{digest}")),
        Ok(None) => {}
        Err(meant) => {
            tracing::warn!(
                image = name,
                ?meant,
                "an image is not pinned: nodes have several of that name"
            );
        }
    }
    if let Some(kept) = kept
        && name_of(&**resolver, wish).is_some()
    {
        set(wish, kept.to_owned());
    }
}

/// The one message of a unary call.
fn unframed(body: &Bytes) -> Result<&[u8], &'static str> {
    let (prefix, message) = body.split_at_checked(PREFIX).ok_or("it is cut off")?;
    if prefix[0] != 0 {
        return Err("compressed messages are not taken");
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if message.len() as u64 != u64::from(length) {
        return Err("its length is not what its prefix says");
    }
    Ok(message)
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // Bounded by the request's limit.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_grpc_has_them() {
        let frame = framed(b"abc");
        assert_eq!(&frame[..], b"\0\0\0\0\x03abc");
        assert_eq!(unframed(&frame), Ok(&b"abc"[..]));
        assert!(unframed(&Bytes::from_static(b"\0\0\0")).is_err());
        assert!(unframed(&Bytes::from_static(b"\0\0\0\0\x09abc")).is_err());
        assert!(unframed(&Bytes::from_static(b"\x01\0\0\0\x03abc")).is_err());
    }
}
