//! Outputs that the client gets: archives of the image or of its files, in pieces as they come about.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_build::ignore::Patterns;
use pontoon_image::build::Tree;

use crate::build::copy::{Options, Selection, Taken};
use crate::build::progress::Begun;
use crate::build::solve::Solved;
use crate::build::{Build, Outcome};
use crate::engine::blocking;
use crate::{Error, Result, id};

/// Bytes of a piece of output.
const PIECE: usize = 256 << 10;

impl Build {
    pub(super) async fn send_image(
        self: &Arc<Self>,
        number: u32,
        image: &str,
        tags: &[String],
    ) -> Outcome<()> {
        let begun = self.reporter.begin("exporting to client tarball").await;
        let (build, image, tags) = (self.clone(), image.to_owned(), tags.to_vec());
        let sent = blocking(move || {
            let mut out = build.pieces(number);
            build
                .engine
                .images
                .save_as(&image, &tags, &mut out)
                .map_err(Error::Image)?;
            out.flush().map_err(sending)
        });
        self.told(&begun, number, sent.await).await
    }

    pub(super) async fn send_files(self: &Arc<Self>, number: u32, solved: &Solved) -> Outcome<()> {
        let begun = self.reporter.begin("exporting to client directory").await;
        let (build, stack) = (self.clone(), solved.stack.clone());
        let sent = blocking(move || {
            let base = Tree::empty();
            let nothing = Patterns::default();
            let options = Options {
                destination: "/",
                owner: None,
                mode: None,
                excludes: &nothing,
                now: id::now() / 1_000_000_000,
                latest: build.epoch(),
            };
            let mut selection = Selection::new(&base, options);
            selection.add(Taken::Tree {
                tree: Arc::new(build.engine.images.tree(&stack).map_err(Error::Image)?),
                path: "/".into(),
                below: None,
            })?;
            let mut out = build.pieces(number);
            selection
                .write(&mut out)
                .and_then(|()| out.flush())
                .map_err(sending)
        });
        self.told(&begun, number, sent.await).await
    }

    pub(in crate::build) async fn told(&self, begun: &Begun, number: u32, sent: Result<()>) -> Outcome<()> {
        match sent {
            Ok(()) => {
                self.reporter.output(number, Bytes::new(), true).await;
                begun.done().await;
                Ok(())
            }
            Err(error) => {
                begun.failed(error.chain()).await;
                Err(error.into())
            }
        }
    }

    pub(in crate::build) fn pieces(self: &Arc<Self>, number: u32) -> std::io::BufWriter<Pieces> {
        let pieces = Pieces {
            build: self.clone(),
            number,
            runtime: tokio::runtime::Handle::current(),
        };
        std::io::BufWriter::with_capacity(PIECE, pieces)
    }
}

pub(in crate::build) fn sending(source: std::io::Error) -> Error {
    Error::Io {
        what: "send the build's output".into(),
        source,
    }
}

/// Sends what is written to the client.
pub(in crate::build) struct Pieces {
    build: Arc<Build>,
    number: u32,
    runtime: tokio::runtime::Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.build.stop.is_cancelled() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let data = Bytes::copy_from_slice(bytes);
        self.runtime
            .block_on(self.build.reporter.output(self.number, data, false));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
