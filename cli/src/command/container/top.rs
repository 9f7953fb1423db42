//! `top`: the processes of a container.

use clap::Args;
use pontoon_proto::v1::TopContainerRequest;

use crate::client::Client;
use crate::error::Outcome;
use crate::output::listing;

/// Columns are at least this wide, with the space behind them, as in Docker's `top`.
const MINIMUM: usize = 20;

/// `top CONTAINER [ps OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// The container, then options of ps(1)
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "ps OPTIONS"])]
    container_and_options: Vec<String>,
}

/// Runs `top`.
///
/// # Errors
/// When the container does not run, or what `ps` says.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let mut words = arguments.container_and_options.into_iter();
    let request = TopContainerRequest {
        target: words.next().unwrap_or_default(),
        ps_args: words.collect(),
    };
    let client = Client::connect(host).await?;
    let listed = client.engine().top_container(request).await?.into_inner();
    let mut rows = vec![listed.titles];
    rows.extend(listed.processes.into_iter().map(|process| process.values));
    listing::write(&listing::align(&rows, MINIMUM));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wide() {
        let row = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        assert_eq!(
            listing::align(&[row(["PID", "CMD"]), row(["7", "sleep 1"])], MINIMUM),
            "PID                 CMD\n7                   sleep 1\n"
        );
    }
}
