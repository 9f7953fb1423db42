//! What messages with secrets look like in logs and errors: what is there is said, not what it is.

use std::fmt;

use crate::v1::RegistryAuth;

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |text: &String| if text.is_empty() { "" } else { "…" };
        f.debug_struct("RegistryAuth")
            .field("username", &hidden(&self.username))
            .field("password", &hidden(&self.password))
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::v1::{PullImageRequest, RegistryAuth, TaskSpec};

    #[test]
    fn credentials_are_not_shown() {
        let auth = RegistryAuth {
            username: "hidden-me".to_owned(),
            password: "hidden-word".to_owned(),
            identity_token: "hidden-token".to_owned(),
            registry_token: "hidden-bearer".to_owned(),
            server_address: "registry:5000".to_owned(),
        };
        let task = TaskSpec {
            registry_auth: Some(auth.clone()),
            ..TaskSpec::default()
        };
        let pull = PullImageRequest {
            auth: Some(auth.clone()),
            ..PullImageRequest::default()
        };
        for shown in [format!("{auth:?}"), format!("{task:#?}"), format!("{pull:?}")] {
            assert!(
                !shown.contains("hidden") && shown.contains("registry:5000"),
                "{shown}"
            );
        }
    }
}
