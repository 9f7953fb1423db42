//! `ps`.

use std::sync::Arc;

use pontoon_proto::v1::{self, ListContainersRequest};

use super::filter::Filters;
use super::record::has_process;
use crate::{Engine, Error, Result};

impl Engine {
    /// Lists containers, newest first.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn list(self: &Arc<Self>, request: &ListContainersRequest) -> Result<Vec<v1::Container>> {
        let filters = Filters::new(&request.filters)?;
        let before = self.created(&filters, "before")?;
        let since = self.created(&filters, "since")?;
        let all = request.all || request.last > 0 || filters.names_states();
        let mut views: Vec<v1::Container> = self
            .containers
            .all()
            .into_iter()
            .filter(|container| {
                container.read(|record| {
                    let view = record.view();
                    (all || has_process(view.state()) || view.state() == v1::ContainerState::Restarting)
                        && before.is_none_or(|limit| view.created_at < limit)
                        && since.is_none_or(|limit| view.created_at > limit)
                        && filters.matches(view)
                })
            })
            .map(|container| container.read(|record| record.view().clone()))
            .collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        if request.last > 0 {
            views.truncate(usize::try_from(request.last).unwrap_or(usize::MAX));
        }
        if request.size {
            for view in &mut views {
                match self.fill_size(view).await {
                    // Removed since it was listed.
                    Ok(()) | Err(Error::Image(pontoon_image::Error::NoRootfs(_))) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(views)
    }

    fn created(&self, filters: &Filters, key: &str) -> Result<Option<i64>> {
        let Some(target) = filters.values(key).last() else {
            return Ok(None);
        };
        let container = self.containers.find(target)?;
        Ok(Some(container.read(|record| record.view().created_at)))
    }
}
