//! [`Layered`]: a service with something around each of its raw calls, before they are decoded. Used by `access` (who may call), `forward`
//! (to the leader) and `images::pin`; what they do is an [`Around`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// Requests of the API are small; none needs more.
pub(crate) const MAX_REQUEST: usize = 4 << 20;

/// A service that takes raw calls.
pub(crate) trait Calls:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Calls for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What is done around calls.
pub(crate) trait Around: Clone + Send + 'static {
    /// Answers a call, with the help of the service or without.
    fn answer<S: Calls>(
        self,
        inner: S,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static;
}

/// A service and what is around it.
#[derive(Clone)]
pub(crate) struct Layered<A, S> {
    around: A,
    inner: S,
}

impl<A, S> Layered<A, S> {
    pub(crate) fn with(around: A, inner: S) -> Self {
        Self { around, inner }
    }
}

impl<A, S: NamedService> NamedService for Layered<A, S> {
    const NAME: &'static str = S::NAME;
}

impl<A: Around, S: Calls> Service<Request<Body>> for Layered<A, S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready, and a clone is called.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (around, inner) = (self.around.clone(), self.inner.clone());
        Box::pin(async move { Ok(around.answer(inner, request).await) })
    }
}

/// The service's own answer.
pub(crate) async fn call<S: Calls>(mut service: S, request: Request<Body>) -> Response<Body> {
    let Ok(response) = service.call(request).await;
    response
}

/// The whole body of a request to `path`, of at most so many bytes.
///
/// # Errors
/// OUT_OF_RANGE when it is larger, INVALID_ARGUMENT when it breaks off.
pub(crate) async fn whole(body: Body, path: &str, most: usize) -> Result<Bytes, Status> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::out_of_range(format!(
            "the request is too large: {path} takes at most {most} bytes"
        ))),
        Err(error) => Err(Status::invalid_argument(format!(
            "can't read the request: {error}"
        ))),
    }
}
