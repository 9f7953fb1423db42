//! `image check`: Docker has no such command. Compares the daemon's images with their digests and counts.

use clap::Args;
use pontoon_proto::v1::CheckImagesRequest;

use crate::client::Client;
use crate::error::Outcome;
use crate::output::listing;

/// `image check [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Delete what is damaged or belongs to nothing, unpack lost layers again, set counts right
    #[arg(long)]
    repair: bool,
}

/// Runs `image check`: exit code 1 when something is wrong that was not repaired, or that has to be pulled or loaded again.
///
/// # Errors
/// The daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let request = CheckImagesRequest {
        repair: arguments.repair,
    };
    let report = client.engine().check_images(request).await?.into_inner();
    let mut left = 0;
    for problem in &report.problems {
        let mut line = format!("{} {}", problem.object, problem.what);
        for more in [&problem.repaired, &problem.advice] {
            if !more.is_empty() {
                line.push_str("; ");
                line.push_str(more);
            }
        }
        left += u32::from(problem.repaired.is_empty() || !problem.advice.is_empty());
        listing::write(&format!("{line}\n"));
    }
    listing::write(&format!(
        "Checked {} images, {} blobs, {} layers: {} problems, {} repaired\n",
        report.images,
        report.blobs,
        report.layers,
        report.problems.len(),
        report.problems.iter().filter(|p| !p.repaired.is_empty()).count()
    ));
    Ok(u8::from(left > 0))
}
