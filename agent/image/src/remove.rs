//! Removal by Docker's rules (moby `daemon/images/image_delete.go`): a name takes its tag away and the image with its
//! last one; an id takes the image with its only tag, or with all of them by force; containers are in the way, stopped
//! ones until forced, running ones always.

use crate::{
    ContainerUse, Digest, Error, ImageId, Reference, RemoveOptions, Removed, Result, catalog::Catalog,
    store::ImageStore,
};

/// What a removal decided, before anything is deleted.
struct Plan {
    removed: Vec<Removed>,
    /// The image itself goes too.
    deletes: Option<ImageId>,
}

pub(crate) fn remove(
    store: &ImageStore,
    name: &str,
    options: &RemoveOptions,
    in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
) -> Result<Vec<Removed>> {
    let writing = store.writing();
    let (mut plan, record, dead_blobs) = store.change_locked(&writing, |catalog| {
        let plan = decide(catalog, name, options, in_use)?;
        let record = plan
            .deletes
            .and_then(|id| catalog.images.remove(&id).map(|r| (id, r)));
        let kept = catalog.blobs();
        let mut dead: Vec<Digest> = Vec::new();
        if let Some((id, r)) = &record {
            dead = [*id, r.manifest]
                .into_iter()
                .chain(r.blobs.clone())
                .filter(|b| !kept.contains(b))
                .collect();
        }
        Ok((plan, record, dead))
    })?;
    for blob in &dead_blobs {
        store.blobs.delete(blob)?;
    }
    drop(writing);
    if let Some((id, record)) = record {
        plan.removed.push(Removed::Deleted(id));
        // Top first: that is the order in which Docker names them.
        let gone = store.layers.release(record.layers.iter().rev().copied())?;
        plan.removed.extend(gone.into_iter().map(Removed::Deleted));
    }
    Ok(plan.removed)
}

fn decide(
    catalog: &mut Catalog,
    name: &str,
    options: &RemoveOptions,
    in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
) -> Result<Plan> {
    let id = catalog.find(name)?;
    let users = in_use(&id);
    let mut removed = Vec::new();
    let by_id = names_id(&id, name);
    if by_id {
        let references = catalog.references_of(&id);
        let single = is_single(&references);
        check_users(&id, &users, options.force)?;
        if !single && !options.force {
            return Err(Error::Conflict(format!(
                "unable to delete {} (must be forced) - image is referenced in multiple repositories",
                id.short()
            )));
        }
        untag(catalog, &references, &mut removed);
    } else {
        let reference = Reference::parse(name)?.with_default_tag();
        let references = catalog.references_of(&id);
        if !options.force
            && is_single(&references)
            && let Some(user) = users.first()
        {
            return Err(Error::Conflict(format!(
                "unable to remove repository reference {name:?} (must force) - container {} is using its referenced \
                 image {}",
                short(&user.id),
                id.short()
            )));
        }
        untag(catalog, &[taken(catalog, &reference)], &mut removed);
        // Digest references alone do not keep a repository's image once its last tag there is gone.
        let left = catalog.references_of(&id);
        let same_name = |r: &&Reference| r.name() == reference.name();
        if reference.digest().is_none() && left.iter().filter(same_name).all(|r| r.digest().is_some()) {
            let digests: Vec<_> = left.iter().filter(same_name).cloned().collect();
            untag(catalog, &digests, &mut removed);
        }
        let keeps_others = !catalog.references_of(&id).is_empty();
        // Forced: the tag goes, but an image that a running container uses stays as a dangling one.
        if keeps_others || check_users(&id, &users, options.force).is_err() {
            return Ok(Plan {
                removed,
                deletes: None,
            });
        }
    }
    let deletes = (!options.no_prune || by_id).then_some(id);
    Ok(Plan { removed, deletes })
}

/// The reference as the catalog has it: `name:tag@digest` is kept as `name@digest`.
fn taken(catalog: &Catalog, reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => {
            let exact = reference.with_digest(*digest);
            if catalog.references.contains_key(&exact) {
                return exact;
            }
            let fits =
                |r: &&Reference| r.name() == reference.name() && catalog.named(reference) == catalog.named(r);
            catalog.references.keys().find(fits).cloned().unwrap_or(exact)
        }
        None => reference.clone(),
    }
}

fn untag(catalog: &mut Catalog, references: &[Reference], removed: &mut Vec<Removed>) {
    for reference in references {
        if catalog.references.remove(reference).is_some() {
            removed.push(Removed::Untagged(reference.familiar()));
        }
    }
}

/// Docker's `isSingleReference`: one reference, or one tag and digests of the same repository.
fn is_single(references: &[Reference]) -> bool {
    let mut tags = references.iter().filter(|r| r.digest().is_none());
    match (references.len(), tags.next(), tags.next()) {
        (0 | 1, ..) => true,
        (_, Some(tag), None) => references.iter().all(|r| r.name() == tag.name()),
        _ => false,
    }
}

fn check_users(id: &ImageId, users: &[ContainerUse], force: bool) -> Result<()> {
    if let Some(user) = users.iter().find(|u| u.running) {
        return Err(Error::Conflict(format!(
            "unable to delete {} (cannot be forced) - image is being used by running container {}",
            id.short(),
            short(&user.id)
        )));
    }
    match users.first() {
        Some(user) if !force => Err(Error::Conflict(format!(
            "unable to delete {} (must be forced) - image is being used by stopped container {}",
            id.short(),
            short(&user.id)
        ))),
        _ => Ok(()),
    }
}

/// The user named the image by its id (or a prefix of it) rather than by a tag.
fn names_id(id: &ImageId, name: &str) -> bool {
    let prefix = name.strip_prefix("sha256:").unwrap_or(name);
    !prefix.is_empty() && id.hex().starts_with(prefix)
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
