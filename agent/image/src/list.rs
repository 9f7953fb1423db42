//! Listings: `images` with its filters, and `history`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::{
    Digest, History, Image, ImageConfig, ImageSummary, LayersUsage, ListOptions, Reference, Result,
    blobs::Blobs,
    catalog::{Catalog, Record, nanos},
    layers::Layers,
    store::created,
};

pub(crate) fn list(catalog: &Catalog, options: &ListOptions) -> Result<Vec<ImageSummary>> {
    let time_of = |name: &Option<String>| {
        let time =
            |n: &String| Ok::<_, crate::Error>(catalog.images.get(&catalog.find(n)?).map_or(0, created));
        name.as_ref().map(time).transpose()
    };
    let (before, since) = (time_of(&options.before)?, time_of(&options.since)?);
    let mut found = Vec::new();
    for (id, record) in &catalog.images {
        let created = created(record);
        let in_time = before.is_none_or(|t| created < t)
            && since.is_none_or(|t| created > t)
            && options.until.is_none_or(|t| created < t);
        if !in_time || catalog.is_passing(id) || !options.labels.iter().all(|l| has_label(&record.config, l))
        {
            continue;
        }
        let mut references = catalog.references_of(id);
        // Named only as another platform of its index: shown as that, or with all.
        if !options.all && catalog.is_other(id) {
            continue;
        }
        if !options.references.is_empty() {
            references.retain(|r| options.references.iter().any(|p| fits(p, r)));
            if references.is_empty() {
                continue;
            }
        }
        let (tags, digests): (Vec<_>, Vec<_>) = references.iter().partition(|r| r.digest().is_none());
        let fits = match options.dangling {
            Some(true) => tags.is_empty() && !catalog.is_other(id),
            Some(false) => !references.is_empty() || catalog.is_other(id),
            None => true,
        };
        if !fits {
            continue;
        }
        let familiar = |refs: Vec<&Reference>| refs.into_iter().map(Reference::familiar).collect();
        found.push(ImageSummary {
            id: *id,
            repo_tags: familiar(tags),
            repo_digests: familiar(digests),
            size: record.size,
            created,
            labels: Arc::clone(&record.config).config.labels.clone(),
        });
    }
    found.sort_by(|a, b| (b.created, &a.repo_tags, a.id).cmp(&(a.created, &b.repo_tags, b.id)));
    Ok(found)
}

/// What the layers of all images take on disk, each counted once, and how much of each image others use too.
pub(crate) fn layers_usage(
    catalog: &Catalog,
    layers: &Layers,
    blobs: &Blobs,
    is_used: &dyn Fn(&Digest) -> bool,
) -> LayersUsage {
    let mut users: HashMap<Digest, u32> = HashMap::new();
    for record in catalog.images.values() {
        // An image may hold one layer several times only below different ones: chain ids differ then.
        for chain in &record.layers {
            *users.entry(*chain).or_default() += 1;
        }
    }
    let shared = |record: &Record| {
        record
            .layers
            .iter()
            .filter(|chain| users[*chain] > 1)
            .map(|chain| layers.size(chain))
            .sum()
    };
    let mut held_layers = BTreeSet::new();
    let mut held_blobs = BTreeSet::new();
    for (id, record) in catalog.images.iter().filter(|(id, _)| is_used(id)) {
        held_layers.extend(record.layers.iter().copied());
        held_blobs.extend(
            [*id, record.manifest]
                .into_iter()
                .chain(record.blobs.iter().copied()),
        );
    }
    let of_blobs: u64 = held_blobs.iter().filter_map(|digest| blobs.size(digest)).sum();
    LayersUsage {
        held: of_blobs + held_layers.iter().map(|chain| layers.size(chain)).sum::<u64>(),
        blobs: blobs.total(),
        total: users.keys().map(|chain| layers.size(chain)).sum(),
        shared: catalog
            .images
            .iter()
            .map(|(id, record)| (*id, shared(record)))
            .collect(),
    }
}

fn has_label(config: &ImageConfig, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => config.config.labels.get(key).is_some_and(|v| v == value),
        None => config.config.labels.contains_key(filter),
    }
}

/// Docker's `reference` filter: the pattern fits the familiar name with or without the tag.
fn fits(pattern: &str, reference: &Reference) -> bool {
    [reference.familiar(), reference.familiar_name()]
        .iter()
        .any(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

/// Go's `path.Match`: `*` and `?` do not cross a slash, `[a-z]` and `[^a-z]` are classes, `\` quotes.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return name.is_empty();
    };
    if first == b'*' {
        let segment = name.iter().position(|b| *b == b'/').unwrap_or(name.len());
        // Patterns are short and typed by the user; adjacent stars are one.
        let rest = &rest[rest.iter().take_while(|b| **b == b'*').count()..];
        return (0..=segment).any(|n| glob(rest, &name[n..]));
    }
    let Some((&byte, name)) = name.split_first() else {
        return false;
    };
    match first {
        b'?' => byte != b'/' && glob(rest, name),
        b'[' => {
            let Some(end) = rest.iter().skip(1).position(|b| *b == b']').map(|i| i + 1) else {
                return false;
            };
            let (class, negated) = match rest[..end].strip_prefix(b"^") {
                Some(class) => (class, true),
                None => (&rest[..end], false),
            };
            in_class(class, byte) != negated && glob(&rest[end + 1..], name)
        }
        b'\\' => rest
            .split_first()
            .is_some_and(|(quoted, rest)| *quoted == byte && glob(rest, name)),
        _ => first == byte && glob(rest, name),
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    let mut class = class;
    while let Some((&low, rest)) = class.split_first() {
        match rest {
            [b'-', high, rest @ ..] => {
                if (low..=*high).contains(&byte) {
                    return true;
                }
                class = rest;
            }
            _ if low == byte => return true,
            _ => class = rest,
        }
    }
    false
}

pub(crate) fn history(image: &Image, layers: &Layers) -> Vec<History> {
    let mut chains = image.layers.iter();
    let mut lines: Vec<History> = Vec::new();
    for step in &image.config.history {
        let size = if step.empty_layer {
            0
        } else {
            chains.next().map_or(0, |c| layers.size(c))
        };
        lines.push(History {
            id: None,
            created: nanos(step.created.as_deref()),
            created_by: step.created_by.clone().unwrap_or_default(),
            comment: step.comment.clone().unwrap_or_default(),
            size,
            tags: Vec::new(),
        });
    }
    // A configuration without (or with too short a) history still has layers to show.
    for chain in chains {
        let (created_by, comment) = (String::new(), String::new());
        let size = layers.size(chain);
        lines.push(History {
            id: None,
            created: image.created,
            created_by,
            comment,
            size,
            tags: Vec::new(),
        });
    }
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest.id = Some(image.id);
        newest.tags.clone_from(&image.repo_tags);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs_as_go_does() {
        for (pattern, name, fits) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox:latest", true),
            ("*", "user/app", false),
            ("*/*:1.?", "user/app:1.2", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("[", "a", false),
            ("**b", "aab", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                fits,
                "{pattern} {name}"
            );
        }
    }
}
