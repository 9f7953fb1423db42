//! The image's configuration with its history.

use pontoon_build::plan::{Action, HISTORY_COMMENT, Plan};
use pontoon_image::{HistoryEntry, ImageConfig};

use crate::build::solve::Solved;

/// The configuration with its history: times are those at which the layers were made, so that a build out of the cache gives the
/// same image again.
pub(super) fn configuration(plan: &Plan, solved: &Solved) -> ImageConfig {
    let mut config = plan.config.clone();
    let mut history = plan.base_history.clone();
    let total = solved.stack.layers().len();
    let own: usize = solved_layers(plan, solved);
    let base = total - own.min(total);
    // A base without a history, or one that does not fit its layers, would make the whole not fit.
    let said = history.iter().filter(|entry| !entry.empty_layer).count();
    history.extend((said..base).map(|_| HistoryEntry::default()));
    for extra in history.iter_mut().filter(|entry| !entry.empty_layer).skip(base) {
        extra.empty_layer = true;
    }
    let text = |nanoseconds: i64| {
        let time =
            jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        time.to_string()
    };
    let epoch = plan
        .epoch
        .map(|seconds| text(seconds.saturating_mul(1_000_000_000)));
    let first = plan
        .history
        .iter()
        .filter_map(|entry| entry.step.and_then(|step| solved.steps[step]))
        .map(|(_, time)| time)
        .next();
    let base_time = history.iter().rev().find_map(|entry| entry.created.clone());
    let mut now = epoch.clone().or(first.map(text)).or(base_time);
    let mut layers = base;
    for entry in &plan.history {
        let made = entry.step.and_then(|step| solved.steps[step]);
        if epoch.is_none()
            && let Some((_, time)) = made
        {
            now = Some(text(time));
        }
        let has_layer = made.is_some_and(|(count, _)| count > layers);
        if has_layer {
            layers += 1;
        }
        history.push(HistoryEntry {
            created: now.clone(),
            created_by: Some(entry.created_by.clone()),
            author: entry.author.clone(),
            comment: Some(HISTORY_COMMENT.into()),
            empty_layer: !has_layer,
        });
    }
    // Layers of a named context and the like have no instruction.
    while layers < total {
        layers += 1;
        history.push(HistoryEntry {
            created: now.clone(),
            comment: Some(HISTORY_COMMENT.into()),
            ..HistoryEntry::default()
        });
    }
    config.created = now;
    config.history = history;
    config
}

/// How many of the layers the plan's history has made.
fn solved_layers(plan: &Plan, solved: &Solved) -> usize {
    let counts = plan
        .history
        .iter()
        .filter_map(|entry| entry.step.and_then(|step| solved.steps[step]));
    let counts: Vec<usize> = counts.map(|(count, _)| count).collect();
    let steps = plan.history.iter().filter_map(|entry| entry.step).next();
    let before = steps.map(|step| match &plan.steps[step].action {
        Action::Run(run) => run.base,
        Action::Copy(copy) => copy.base,
        Action::Folder { base, .. } => *base,
        _ => None,
    });
    let before = before
        .flatten()
        .and_then(|step| solved.steps[step])
        .map_or(0, |(count, _)| count);
    counts.last().map_or(0, |last| last.saturating_sub(before))
}
