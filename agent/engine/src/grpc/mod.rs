//! The engine on the wire: proto service `Engine`, one file a group. Each method unpacks the request, calls the engine and
//! packs the answer; there is no logic here.
//!
//! - `containers`, `stdio` (attach, exec), `logs`, `images`, `networks`, `system`: the groups;
//! - [`status`]: errors as statuses.

mod archive;
mod build;
mod containers;
mod events;
mod images;
mod logs;
mod networks;
mod registry;
mod status;
mod stdio;
mod volumes;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use pontoon_proto::v1::engine_server::EngineServer;
use pontoon_proto::v1::*;
use tonic::{Request, Response, Status, Streaming};

pub use status::{EXIT_CODE, status};

use crate::Engine;

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes that one message may have: archives come in chunks, a command line stays far below.
const MAX_MESSAGE: usize = 8 << 20;

/// The service, to be added to a tonic server.
pub fn service(engine: Arc<Engine>) -> EngineServer<Service> {
    EngineServer::new(Service { engine })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// Implementation of the proto service.
#[derive(Clone, Debug)]
pub struct Service {
    engine: Arc<Engine>,
}

/// Packs a result.
fn answer<T>(result: crate::Result<T>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status(&error))
}

/// Packs the result of an operation that answers nothing.
fn done(result: crate::Result<()>) -> Answer<Empty> {
    answer(result.map(|()| Empty {}))
}

#[tonic::async_trait]
impl pontoon_proto::v1::engine_server::Engine for Service {
    type BuildStream = BoxStream<BuildResponse>;
    type AttachStream = BoxStream<StdioResponse>;
    type ExecStream = BoxStream<StdioResponse>;
    type LogsStream = BoxStream<LogEntry>;
    type LoadImagesStream = BoxStream<LoadImagesResponse>;
    type PullImageStream = BoxStream<PullImageResponse>;
    type PushImageStream = BoxStream<PushImageResponse>;
    type SaveImagesStream = BoxStream<Chunk>;
    type EventsStream = BoxStream<Event>;
    type ContainerStatsStream = BoxStream<ContainerStatsResponse>;
    type ExportContainerStream = BoxStream<Chunk>;
    type CopyFromContainerStream = BoxStream<CopyFromContainerResponse>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(self.engine.version()))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Answer<InfoResponse> {
        answer(self.engine.info().await)
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        answer(self.engine.create(request.into_inner()).await)
    }

    async fn start_container(&self, request: Request<ContainerRequest>) -> Answer<Empty> {
        done(self.engine.start(&request.into_inner().target).await)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<Empty> {
        done(self.engine.stop(request.into_inner()).await)
    }

    async fn kill_container(&self, request: Request<KillContainerRequest>) -> Answer<Empty> {
        let KillContainerRequest { target, signal } = request.into_inner();
        done(self.engine.kill(&target, &signal).await)
    }

    async fn restart_container(&self, request: Request<StopContainerRequest>) -> Answer<Empty> {
        done(self.engine.restart(request.into_inner()).await)
    }

    async fn pause_container(&self, request: Request<ContainerRequest>) -> Answer<Empty> {
        done(self.engine.pause(&request.into_inner().target).await)
    }

    async fn unpause_container(&self, request: Request<ContainerRequest>) -> Answer<Empty> {
        done(self.engine.unpause(&request.into_inner().target).await)
    }

    async fn rename_container(&self, request: Request<RenameContainerRequest>) -> Answer<Empty> {
        let RenameContainerRequest { target, name } = request.into_inner();
        done(self.engine.rename(&target, &name).await)
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<Empty> {
        let request = request.into_inner();
        if request.volumes {
            return done(
                self.engine
                    .remove_with_volumes(&request.target, request.force)
                    .await,
            );
        }
        done(self.engine.remove(&request.target, request.force).await)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        containers::list(&self.engine, request.into_inner()).await
    }

    async fn inspect_container(&self, request: Request<ContainerRequest>) -> Answer<Container> {
        answer(self.engine.inspect_whole(&request.into_inner().target).await)
    }

    async fn wait_container(&self, request: Request<WaitContainerRequest>) -> Answer<WaitContainerResponse> {
        let request = request.into_inner();
        answer(self.engine.wait(&request.target, request.condition()).await)
    }

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Answer<Self::AttachStream> {
        stdio::attach(&self.engine, request.into_inner()).await
    }

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<Self::ExecStream> {
        stdio::exec(&self.engine, request.into_inner()).await
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        logs::logs(&self.engine, &request.into_inner())
    }

    async fn load_images(
        &self,
        request: Request<Streaming<LoadImagesRequest>>,
    ) -> Answer<Self::LoadImagesStream> {
        images::load(&self.engine, request.into_inner()).await
    }

    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Answer<ImportImageResponse> {
        images::import(&self.engine, request.into_inner()).await
    }

    async fn save_images(&self, request: Request<SaveImagesRequest>) -> Answer<Self::SaveImagesStream> {
        images::save(&self.engine, request.into_inner())
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = self.engine.list_images(request.into_inner()).await;
        answer(images.map(|images| ListImagesResponse { images }))
    }

    async fn inspect_image(&self, request: Request<ImageRequest>) -> Answer<Image> {
        let ImageRequest { target, platform } = request.into_inner();
        answer(self.engine.inspect_platform(&target, &platform).await)
    }

    async fn tag_image(&self, request: Request<TagImageRequest>) -> Answer<Empty> {
        let TagImageRequest { source, target } = request.into_inner();
        done(self.engine.tag_image(&source, &target).await)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        images::remove(&self.engine, request.into_inner()).await
    }

    async fn image_history(&self, request: Request<ImageRequest>) -> Answer<ImageHistoryResponse> {
        let ImageRequest { target, platform } = request.into_inner();
        let entries = self.engine.platform_history(&target, &platform).await;
        answer(entries.map(|entries| ImageHistoryResponse { entries }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        registry::pull(&self.engine, request.into_inner())
    }

    async fn push_image(&self, request: Request<PushImageRequest>) -> Answer<Self::PushImageStream> {
        registry::push(&self.engine, request.into_inner())
    }

    async fn registry_login(&self, request: Request<RegistryLoginRequest>) -> Answer<RegistryLoginResponse> {
        answer(self.engine.registry_login(request.into_inner()).await)
    }

    async fn search_images(&self, request: Request<SearchImagesRequest>) -> Answer<SearchImagesResponse> {
        let images = self.engine.search_images(request.into_inner()).await;
        answer(images.map(|images| SearchImagesResponse { images }))
    }

    async fn inspect_manifest(
        &self,
        request: Request<InspectManifestRequest>,
    ) -> Answer<InspectManifestResponse> {
        let manifests = self.engine.inspect_manifest(request.into_inner()).await;
        answer(manifests.map(|manifests| InspectManifestResponse { manifests }))
    }

    async fn create_network(&self, request: Request<CreateNetworkRequest>) -> Answer<CreateNetworkResponse> {
        answer(self.engine.create_network(request.into_inner()).await)
    }

    async fn list_networks(&self, request: Request<ListNetworksRequest>) -> Answer<ListNetworksResponse> {
        networks::list(&self.engine, &request.into_inner()).await
    }

    async fn inspect_network(&self, request: Request<NetworkRequest>) -> Answer<LocalNetwork> {
        answer(self.engine.inspect_network(&request.into_inner().target).await)
    }

    async fn remove_network(&self, request: Request<NetworkRequest>) -> Answer<NetworkRemoved> {
        networks::remove(&self.engine, &request.into_inner().target).await
    }

    async fn connect_network(&self, request: Request<ConnectNetworkRequest>) -> Answer<Empty> {
        done(self.engine.connect_network(request.into_inner()).await)
    }

    async fn disconnect_network(&self, request: Request<DisconnectNetworkRequest>) -> Answer<Empty> {
        done(self.engine.disconnect_network(request.into_inner()).await)
    }

    async fn prune_networks(&self, request: Request<PruneRequest>) -> Answer<PruneResponse> {
        answer(self.engine.prune_networks(&request.into_inner()).await)
    }

    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<Volume> {
        answer(self.engine.create_volume(request.into_inner()).await)
    }

    async fn list_volumes(&self, request: Request<ListVolumesRequest>) -> Answer<ListVolumesResponse> {
        volumes::list(&self.engine, &request.into_inner())
    }

    async fn inspect_volume(&self, request: Request<VolumeRequest>) -> Answer<Volume> {
        answer(self.engine.inspect_volume(&request.into_inner().name))
    }

    async fn remove_volume(&self, request: Request<RemoveVolumeRequest>) -> Answer<Empty> {
        done(self.engine.remove_volume(request.into_inner()).await)
    }

    async fn prune_volumes(&self, request: Request<PruneRequest>) -> Answer<PruneResponse> {
        answer(self.engine.prune_volumes(request.into_inner().filters).await)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        events::events(&self.engine, &request.into_inner())
    }

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Answer<DiskUsageResponse> {
        answer(self.engine.disk_usage(&request.into_inner()).await)
    }

    async fn update_container(
        &self,
        request: Request<UpdateContainerRequest>,
    ) -> Answer<UpdateContainerResponse> {
        answer(self.engine.update(request.into_inner()).await)
    }

    async fn top_container(&self, request: Request<TopContainerRequest>) -> Answer<TopContainerResponse> {
        let TopContainerRequest { target, ps_args } = request.into_inner();
        answer(self.engine.top(&target, &ps_args).await)
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<Self::ContainerStatsStream> {
        containers::stats(&self.engine, &request.into_inner())
    }

    async fn prune_containers(&self, request: Request<PruneRequest>) -> Answer<PruneResponse> {
        answer(self.engine.prune_containers(&request.into_inner()).await)
    }

    async fn container_changes(
        &self,
        request: Request<ContainerRequest>,
    ) -> Answer<ContainerChangesResponse> {
        let changes = self.engine.changes(&request.into_inner().target).await;
        answer(changes.map(|changes| ContainerChangesResponse { changes }))
    }

    async fn export_container(
        &self,
        request: Request<ContainerRequest>,
    ) -> Answer<Self::ExportContainerStream> {
        archive::export(&self.engine, &request.into_inner()).await
    }

    async fn commit_container(
        &self,
        request: Request<CommitContainerRequest>,
    ) -> Answer<CommitContainerResponse> {
        let id = self.engine.commit(request.into_inner()).await;
        answer(id.map(|id| CommitContainerResponse { id }))
    }

    async fn stat_path(&self, request: Request<ContainerPathRequest>) -> Answer<PathStat> {
        answer(self.engine.stat_path(&request.into_inner()).await)
    }

    async fn copy_from_container(
        &self,
        request: Request<ContainerPathRequest>,
    ) -> Answer<Self::CopyFromContainerStream> {
        archive::copy_out(&self.engine, &request.into_inner()).await
    }

    async fn copy_to_container(&self, request: Request<Streaming<CopyToContainerRequest>>) -> Answer<Empty> {
        archive::copy_in(&self.engine, request.into_inner()).await
    }

    async fn check_images(&self, request: Request<CheckImagesRequest>) -> Answer<CheckImagesResponse> {
        answer(self.engine.check_images(request.into_inner().repair).await)
    }

    async fn build(&self, request: Request<Streaming<BuildRequest>>) -> Answer<Self::BuildStream> {
        build::build(&self.engine, request.into_inner()).await
    }

    async fn prune_build_cache(&self, request: Request<PruneRequest>) -> Answer<PruneResponse> {
        answer(self.engine.prune_build_cache(request.into_inner()).await)
    }

    async fn prune_images(&self, request: Request<PruneRequest>) -> Answer<PruneResponse> {
        answer(self.engine.prune_images(&request.into_inner()).await)
    }
}
