//! Errors of the engine as gRPC statuses: a stable code, Docker's text with its causes, and in the metadata the exit code
//! that `run` and `exec` end with.

use pontoon_image::Error as ImageError;
use pontoon_image::registry::Error as RegistryError;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::Error;

/// Metadata key of the exit code (125, 126, 127) that a client should end with.
pub const EXIT_CODE: &str = "pontoon-exit-code";

/// Turns an error into a status.
pub fn status(error: &Error) -> Status {
    let code = match error {
        Error::NoSuchContainer(_)
        | Error::NoSuchImage(_)
        | Error::NoSuchNetwork(_)
        | Error::NoSuchVolume(_)
        | Error::NoSuchFile { .. } => Code::NotFound,
        Error::AmbiguousPrefix(_) | Error::Invalid(_) => Code::InvalidArgument,
        Error::NameInUse { .. } => Code::AlreadyExists,
        Error::Conflict(_) | Error::NotRunning(_) | Error::Start { .. } => Code::FailedPrecondition,
        Error::Image(error) => image(error),
        Error::Registry(error) => registry(error),
        Error::Network { source, .. } if source.is_conflict() => Code::FailedPrecondition,
        Error::Network { source, .. } if source.is_not_found() => Code::NotFound,
        Error::Network {
            source: pontoon_net::Error::Invalid { .. },
            ..
        } => Code::InvalidArgument,
        Error::Network {
            source: pontoon_net::Error::Predefined { .. },
            ..
        } => Code::InvalidArgument,
        Error::ShuttingDown(_) | Error::Unreachable(_) => Code::Unavailable,
        Error::Network { .. }
        | Error::Runtime { .. }
        | Error::Io { .. }
        | Error::Files(_)
        | Error::Record { .. } => Code::Internal,
    };
    let text = error.chain();
    if code == Code::Internal {
        tracing::warn!(error = text, "request failed");
    }
    let mut metadata = MetadataMap::new();
    metadata.insert(EXIT_CODE, MetadataValue::from(error.exit_code()));
    Status::with_metadata(code, text, metadata)
}

fn registry(error: &RegistryError) -> Code {
    match error {
        RegistryError::Image(error)
        | RegistryError::Unusable { source: error, .. }
        | RegistryError::Layer { source: error, .. } => image(error),
        RegistryError::ManifestUnknown { .. }
        | RegistryError::RepositoryUnknown { .. }
        | RegistryError::Denied { .. }
        | RegistryError::NoMatchingManifest { .. }
        | RegistryError::WrongPlatform { .. } => Code::NotFound,
        RegistryError::NoCredentials { .. } | RegistryError::Unauthorized(_) => Code::Unauthenticated,
        RegistryError::TooManyRequests { .. } => Code::ResourceExhausted,
        RegistryError::Settings(_) => Code::InvalidArgument,
        RegistryError::Cancelled => Code::Cancelled,
        // A registry's fault, not ours: nothing for our own log.
        RegistryError::Transport { .. }
        | RegistryError::Stalled { .. }
        | RegistryError::Status { .. }
        | RegistryError::Protocol { .. } => Code::Unavailable,
    }
}

fn image(error: &ImageError) -> Code {
    match error {
        ImageError::NotFound(_) => Code::NotFound,
        ImageError::Conflict(_) | ImageError::RootfsExists(_) | ImageError::Locked(_) => {
            Code::FailedPrecondition
        }
        ImageError::Ambiguous { .. }
        | ImageError::InvalidReference { .. }
        | ImageError::HostileArchive { .. }
        | ImageError::NotAnArchive(_)
        | ImageError::WrongPlatform { .. }
        | ImageError::InvalidChange { .. }
        | ImageError::Overwrite(_)
        | ImageError::InvalidArgument(_)
        | ImageError::UnknownUser { .. } => Code::InvalidArgument,
        ImageError::Corrupt { .. } => Code::DataLoss,
        _ => Code::Internal,
    }
}
