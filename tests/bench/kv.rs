//! The two calls of etcd's gRPC API that the figure `writes` needs, as client and as server over our log: both systems get the same
//! bytes from the same load generator. Used by [`super::load`] and [`super::member`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use http::uri::PathAndQuery;
use pontoon_raft::{RaftHandle, SnapshotWriter, StateMachine};
use prost::Message;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// etcd's `PutRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// etcd's `RangeRequest` for one key; linearizable, as its default is.
#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// One pair in a `RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// etcd's `RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Found {
    #[prost(message, repeated, tag = "2")]
    pub pairs: Vec<Pair>,
}

/// The header of etcd's answers.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// etcd's `StatusResponse`: who leads.
#[derive(Clone, PartialEq, Message)]
struct MemberStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// What is of no interest.
#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// A client of either system.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// A client on a connection.
    pub fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self
            .0
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner())
    }

    /// Writes a pair; committed when this returns.
    pub async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.call::<_, Nothing>(PUT, Put { key, value }).await.map(drop)
    }

    /// Reads a key, linearizably.
    pub async fn get(&mut self, key: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let found: Found = self.call(RANGE, Range { key }).await?;
        Ok(found.pairs.into_iter().next().map(|pair| pair.value))
    }

    /// Whether this etcd member leads.
    pub async fn leads(&mut self) -> Result<bool> {
        let status: MemberStatus = self.call(STATUS, Nothing {}).await?;
        Ok(status.leader != 0 && status.header.is_some_and(|header| header.member == status.leader))
    }
}

type Pairs = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// The state behind our log.
#[derive(Clone, Default)]
pub struct State(Pairs);

impl StateMachine for State {
    fn apply(&mut self, _index: u64, data: &[u8]) {
        if let Ok(put) = Put::decode(data) {
            let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            pairs.insert(put.key, put.value);
        }
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        ))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        let (mut rest, mut pairs) = (bytes.as_slice(), BTreeMap::new());
        while !rest.is_empty() {
            let put = Put::decode_length_delimited(&mut rest).map_err(io::Error::other)?;
            pairs.insert(put.key, put.value);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pairs;
        Ok(())
    }
}

struct Pinned(BTreeMap<Vec<u8>, Vec<u8>>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        self.0.into_iter().try_for_each(|(key, value)| {
            writer.write_all(&Put { key, value }.encode_length_delimited_to_vec())
        })
    }
}

/// The service over our log.
#[derive(Clone)]
pub struct Server {
    handle: RaftHandle,
    state: State,
}

impl Server {
    /// A server over a member and the state that it builds up.
    pub fn new(handle: RaftHandle, state: State) -> Self {
        Self { handle, state }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

impl UnaryService<Put> for Server {
    type Response = Nothing;
    type Future = Answer<Nothing>;

    fn call(&mut self, request: Request<Put>) -> Self::Future {
        let handle = self.handle.clone();
        Box::pin(async move {
            let entry = request.into_inner().encode_to_vec();
            let index = handle.propose(entry.into()).await;
            index.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(Response::new(Nothing {}))
        })
    }
}

impl UnaryService<Range> for Server {
    type Response = Found;
    type Future = Answer<Found>;

    fn call(&mut self, request: Request<Range>) -> Self::Future {
        let Self { handle, state } = self.clone();
        Box::pin(async move {
            let confirmed = handle.read_barrier().await;
            confirmed.map_err(|error| Status::unavailable(error.to_string()))?;
            let key = request.into_inner().key;
            let value = state
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .cloned();
            let pairs = value.map(|value| Pair { key, value }).into_iter().collect();
            Ok(Response::new(Found { pairs }))
        })
    }
}

impl NamedService for Server {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                PUT => {
                    let codec = ProstCodec::<Nothing, Put>::default();
                    tonic::server::Grpc::new(codec).unary(server, request).await
                }
                RANGE => {
                    let codec = ProstCodec::<Found, Range>::default();
                    tonic::server::Grpc::new(codec).unary(server, request).await
                }
                _ => Status::unimplemented("only Put and Range").into_http(),
            })
        })
    }
}
