//! The daemon's flags about the room that images take. Part of [`Arguments`](super::Arguments); carried out by the engine.

use clap::Args;
use pontoon_engine::ImageGc;

use crate::error::Failure;

/// Distance of the low mark below the high one, when only that is given.
const DISTANCE: u8 = 5;

/// Flags about the room that images take.
#[derive(Args, Debug)]
pub struct ImageArguments {
    /// Remove build cache and unused images when their disk is fuller than this percentage (default never)
    #[arg(
        long,
        value_name = "percent",
        env = "PONTOON_IMAGE_GC_HIGH_MARK",
        hide_env = true,
        value_parser = percent
    )]
    image_gc_high_mark: Option<u8>,
    /// Remove them until it is no fuller than this percentage (default 5 below the high mark)
    #[arg(
        long,
        value_name = "percent",
        env = "PONTOON_IMAGE_GC_LOW_MARK",
        hide_env = true,
        value_parser = percent
    )]
    image_gc_low_mark: Option<u8>,
}

impl ImageArguments {
    /// Checks the flags.
    ///
    /// # Errors
    /// Marks that make no sense.
    pub fn settings(self) -> Result<Option<ImageGc>, Failure> {
        match (self.image_gc_high_mark, self.image_gc_low_mark) {
            (None | Some(0), None) => Ok(None),
            (None | Some(0), Some(_)) => Err(Failure::new(
                "--image-gc-low-mark means nothing without --image-gc-high-mark",
            )),
            (Some(high), low) => {
                let low = low.unwrap_or(high.saturating_sub(DISTANCE));
                let gc = ImageGc::new(high, low);
                gc.map(Some)
                    .map_err(|error| Failure::new(format!("--image-gc-high-mark: {error}")))
            }
        }
    }
}

/// `85` or `85%`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse();
    let number = number.ok().filter(|number| *number <= 100);
    number.ok_or_else(|| "a percentage from 0 to 100 is expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{ImageArguments, percent};

    #[test]
    fn marks() {
        let settings = |high, low| {
            let arguments = ImageArguments {
                image_gc_high_mark: high,
                image_gc_low_mark: low,
            };
            arguments.settings().map(|gc| gc.map(|gc| (gc.high, gc.low)))
        };
        assert_eq!(settings(None, None).ok(), Some(None));
        assert_eq!(settings(Some(0), None).ok(), Some(None));
        assert_eq!(settings(Some(85), None).ok(), Some(Some((85, 80))));
        assert_eq!(settings(Some(85), Some(60)).ok(), Some(Some((85, 60))));
        assert!(settings(None, Some(60)).is_err());
        assert!(settings(Some(60), Some(60)).is_err());
        assert_eq!(percent("85%"), Ok(85));
        assert!(percent("101").is_err() && percent("much").is_err() && percent("-1").is_err());
    }
}
