//! `stack ls`, `stack ps`, `stack services`.

use std::collections::BTreeMap;

use clap::Args;
use pontoon_proto::v1::{ListRequest, ListTasksRequest};
use serde_json::{Value, json};

use super::{label_of, services_of, stack_of};
use crate::client::Client;
use crate::command::service;
use crate::error::{Failure, Outcome};
use crate::output::listing::{self, Column};

/// `stack ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
}

/// `stack ps [OPTIONS] STACK`
#[derive(Args, Debug)]
pub struct PsArguments {
    #[command(flatten)]
    listing: service::tasks::ListingOptions,
    /// The stack's name
    #[arg(value_name = "STACK")]
    stack: String,
}

/// `stack services [OPTIONS] STACK`
#[derive(Args, Debug)]
pub struct ServicesArguments {
    #[command(flatten)]
    listing: service::list::ListingOptions,
    /// The stack's name
    #[arg(value_name = "STACK")]
    stack: String,
}

const COLUMNS: &[Column] = &[("NAME", "Name"), ("SERVICES", "Services")];

/// Runs `stack ls`.
///
/// # Errors
/// A malformed template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let mut stacks = BTreeMap::<String, usize>::new();
    for status in services_of(&client, None).await? {
        let spec = status.service.and_then(|service| service.spec);
        if let Some(stack) = stack_of(spec.and_then(|spec| spec.annotations).as_ref()) {
            *stacks.entry(stack.to_owned()).or_default() += 1;
        }
    }
    let row = |(name, services): (&String, &usize)| json!({ "Name": name, "Services": services.to_string() });
    let rows: Vec<Value> = stacks.iter().map(row).collect();
    listing::print(arguments.format.as_deref(), COLUMNS, &[], &rows)?;
    Ok(0)
}

/// Runs `stack ps`.
///
/// # Errors
/// When there is no such stack, a malformed filter or template, or the daemon's.
pub async fn tasks(host: Option<&str>, arguments: PsArguments) -> Outcome {
    let client = Client::connect(host).await?;
    if services_of(&client, Some(&arguments.stack)).await?.is_empty() {
        return Err(Failure::new(format!(
            "nothing found in stack: {}",
            arguments.stack
        )));
    }
    let request = ListTasksRequest {
        labels: vec![label_of(&arguments.stack)],
        ..Default::default()
    };
    service::tasks::print(&client, request, &arguments.listing).await
}

/// Runs `stack services`.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn services(host: Option<&str>, arguments: ServicesArguments) -> Outcome {
    let client = Client::connect(host).await?;
    if services_of(&client, Some(&arguments.stack)).await?.is_empty() {
        eprintln!("Nothing found in stack: {}", arguments.stack);
        return Ok(0);
    }
    let request = ListRequest {
        labels: vec![label_of(&arguments.stack)],
        ..Default::default()
    };
    service::list::print(&client, request, &arguments.listing).await?;
    Ok(0)
}
