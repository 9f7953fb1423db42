//! Removal by Docker's rules (moby `daemon/images/image_delete.go`): a name takes its tag away and the image with its
//! last one; an id takes the image with its only tag, or with all of them by force; containers are in the way, stopped
//! ones until forced, running ones always.

use std::collections::BTreeSet;

use crate::{
    ContainerUse, Error, ImageId, Reference, RemoveOptions, Removed, Result,
    catalog::{Catalog, Record, Target},
    oci::Platform,
    store::ImageStore,
};

/// What a removal decided, before anything is deleted.
struct Plan {
    removed: Vec<Removed>,
    /// Images that go too.
    deletes: Vec<ImageId>,
}

pub(crate) fn remove(
    store: &ImageStore,
    name: &str,
    options: &RemoveOptions,
    in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
) -> Result<Vec<Removed>> {
    let (mut removed, records) = store.change(|catalog| {
        let plan = decide(catalog, name, options, in_use)?;
        let records: Vec<(ImageId, Record)> = plan
            .deletes
            .into_iter()
            .filter_map(|id| catalog.images.remove(&id).map(|r| (id, r)))
            .collect();
        catalog.drop_dangling_names();
        Ok((plan.removed, records))
    })?;
    release(store, records, &mut removed)?;
    Ok(removed)
}

/// Takes one platform's image out of what a name stands for; the last one takes the name along.
pub(crate) fn remove_platform(
    store: &ImageStore,
    name: &str,
    platform: &Platform,
    options: &RemoveOptions,
    in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
) -> Result<Vec<Removed>> {
    let id = store.view().find_platform(name, platform)?;
    let reference = Reference::parse(name).map(Reference::with_default_tag).ok();
    let (is_last, records) = store.change(|catalog| {
        let named = reference.as_ref().and_then(|r| catalog.references.get_mut(r));
        let Some(target) = named.filter(|target| !target.others.is_empty()) else {
            return Ok((true, Vec::new()));
        };
        check_users(&id, &in_use(&id), options.force)?;
        if target.image == id {
            target.image = target.others.pop_first().unwrap_or(id);
        } else {
            target.others.remove(&id);
        }
        let free = !catalog.is_named(&id) && in_use(&id).is_empty();
        let record = free.then(|| catalog.images.remove(&id)).flatten();
        Ok((false, record.map(|r| (id, r)).into_iter().collect()))
    })?;
    if is_last {
        return remove(store, name, options, in_use);
    }
    let mut removed = Vec::new();
    release(store, records, &mut removed)?;
    Ok(removed)
}

/// Ends what an image that was only passing was here for.
pub(crate) fn let_go(store: &ImageStore, id: &ImageId, references: &[Reference]) -> Result<()> {
    let record = store.change(|catalog| {
        let goes = catalog.let_go(id, references);
        Ok(goes.then(|| catalog.images.remove(id)).flatten())
    })?;
    release(
        store,
        record.map(|record| (*id, record)).into_iter().collect(),
        &mut Vec::new(),
    )
}

fn release(store: &ImageStore, records: Vec<(ImageId, Record)>, removed: &mut Vec<Removed>) -> Result<()> {
    for (id, record) in records {
        removed.push(Removed::Deleted(id));
        // Top first: that is the order in which Docker names them.
        let gone = store.layers.release(record.layers.iter().rev().copied())?;
        removed.extend(gone.into_iter().map(Removed::Deleted));
    }
    Ok(())
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
        let others = untag(catalog, &references, &mut removed);
        let deletes = unnamed(catalog, others, &id, in_use);
        return Ok(Plan { removed, deletes });
    }
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
    let mut others = untag(catalog, &[taken(catalog, &reference)], &mut removed);
    // Digest references alone do not keep a repository's image once its last tag there is gone.
    let left = catalog.references_of(&id);
    let same_name = |r: &&Reference| r.name() == reference.name();
    if reference.digest().is_none() && left.iter().filter(same_name).all(|r| r.digest().is_some()) {
        let digests: Vec<_> = left.iter().filter(same_name).cloned().collect();
        others.extend(untag(catalog, &digests, &mut removed));
    }
    // Forced: the tag goes, but an image that a running container uses stays as a dangling one.
    let stays = catalog.is_named(&id) || options.no_prune || check_users(&id, &users, options.force).is_err();
    let mut deletes = match options.no_prune {
        true => Vec::new(),
        false => unnamed(catalog, others, &id, in_use),
    };
    if stays {
        deletes.retain(|i| *i != id);
    }
    Ok(Plan { removed, deletes })
}

/// The image itself, and those of other platforms that came under names that are gone, unless somebody needs them.
fn unnamed(
    catalog: &Catalog,
    others: BTreeSet<ImageId>,
    id: &ImageId,
    in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
) -> Vec<ImageId> {
    let free = |other: &ImageId| other != id && !catalog.is_named(other) && in_use(other).is_empty();
    std::iter::once(*id)
        .chain(others.into_iter().filter(free))
        .collect()
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

/// Takes names away; gives the images that they stood for on other platforms.
fn untag(catalog: &mut Catalog, references: &[Reference], removed: &mut Vec<Removed>) -> BTreeSet<ImageId> {
    let mut others = BTreeSet::new();
    for reference in references {
        if let Some(Target { others: more, .. }) = catalog.references.remove(reference) {
            removed.push(Removed::Untagged(reference.familiar()));
            others.extend(more);
        }
    }
    others
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
