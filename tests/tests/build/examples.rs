//! Dockerfiles as users write them, on busybox: a program that is compiled in stages with a cache, a web application that runs as a
//! user of its own, an image that holds one program.

use anyhow::{Result, ensure};
use pontoon_tests::{SHORT, wait_until};

use crate::{built, cached, context, host, run};

const COMPILED: &str = r#"# syntax=docker/dockerfile:1.7
ARG BASE=busybox

FROM ${BASE} AS base
ENV SRC=/usr/src/app \
    CACHE=/root/.cache/build
WORKDIR ${SRC}

# Dependencies first: they change less often than the program.
FROM base AS dependencies
COPY deps.lock ./
RUN --mount=type=cache,target=/root/.cache/build \
    set -eux; \
    mkdir -p vendor; \
    while read -r name version; do \
        test -f "$CACHE/$name-$version" || { echo "fetching $name"; echo "$name $version" >"$CACHE/$name-$version"; }; \
        cp "$CACHE/$name-$version" vendor/; \
    done <deps.lock

FROM dependencies AS compile
ARG VERSION=dev
COPY --exclude=*_test.sh src ./src
RUN --mount=type=cache,target=/root/.cache/build <<'EOT'
set -e
{ echo '#!/bin/sh'; cat src/*.sh vendor/*; } >/tmp/app
sed -i 's/^\([a-z]*\) \([0-9.]*\)$/# with \1 \2/' /tmp/app
EOT
RUN mkdir -p /out/bin && cp /tmp/app /out/bin/app && chmod 0755 /out/bin/app && sed -i "s/@VERSION@/$VERSION/" /out/bin/app

FROM base AS check
COPY --from=compile /out/bin/app /app
COPY src/all_test.sh .
RUN sh all_test.sh

FROM ${BASE}
LABEL org.opencontainers.image.title="app"
COPY --from=compile /out/ /usr/local/
ENTRYPOINT ["/usr/local/bin/app"]
CMD ["world"]
"#;

#[test]
fn a_program_is_compiled_in_stages() {
    host(|host, _| {
        let files = [
            ("Dockerfile", COMPILED),
            ("deps.lock", "left 1.0\nright 2.1\n"),
            ("src/main.sh", "echo \"hello $1 from @VERSION@\"\n"),
            ("src/all_test.sh", "test \"$(/app you)\" = 'hello you from dev'\n"),
        ];
        let dir = context(host, "compiled", &files)?;
        let said = built(host, &dir, "app:1.2", &["--build-arg", "VERSION=1.2"])?;
        ensure!(
            said.contains("fetching left") && !said.contains("all_test"),
            "{said}"
        );
        ensure!(host.ok(&["run", "--rm", "app:1.2"])? == "hello world from 1.2");
        ensure!(host.ok(&["run", "--rm", "app:1.2", "you"])? == "hello you from 1.2");
        built(host, &dir, "check", &["--target", "check"])?;
        // A dependency more: what was fetched is not fetched again, though the step runs.
        std::fs::write(dir.join("deps.lock"), "left 1.0\nright 2.1\nup 3\n")?;
        let said = built(host, &dir, "app:1.3", &["--build-arg", "VERSION=1.3"])?;
        ensure!(
            said.contains("fetching up") && !said.contains("fetching left"),
            "{said}"
        );
        let kept = host.ok(&[
            "run",
            "--rm",
            "--entrypoint",
            "sh",
            "app:1.3",
            "-c",
            "ls -d /root/.cache /usr/src || true",
        ])?;
        ensure!(kept.is_empty(), "{kept}");
        Ok(())
    });
}

const WEB: &str = r#"FROM busybox
RUN echo 'app:x:1000:' >>/etc/group && echo 'app:x:1000:1000::/srv/www:/bin/false' >>/etc/passwd
WORKDIR /srv/www
COPY --chown=app:app . .
RUN mkdir -p data && chown app:app data
ENV PORT=8080
EXPOSE ${PORT}
USER app
VOLUME ["/srv/www/data"]
HEALTHCHECK --interval=1s --timeout=3s --start-period=1s CMD wget -q -O /dev/null http://127.0.0.1:${PORT}/ || exit 1
STOPSIGNAL SIGTERM
CMD ["sh", "-c", "exec httpd -f -p $PORT -h /srv/www/public"]
"#;

#[test]
fn a_web_application_runs_as_its_user() {
    host(|host, _| {
        let files = [
            ("Dockerfile", WEB),
            (
                ".dockerignore",
                "# what is not the application's\n.git\n**/node_modules\n*.log\n!keep.log\nDockerfile\n.dockerignore\n.env*\n",
            ),
            ("public/index.html", "it works\n"),
            ("lib/node_modules/x", "no\n"),
            (".git/config", "no\n"),
            (".env.local", "SECRET=1\n"),
            ("debug.log", "no\n"),
            ("keep.log", "yes\n"),
        ];
        let dir = context(host, "webapp", &files)?;
        built(host, &dir, "webapp", &[])?;
        let files = run(
            host,
            "webapp",
            "find . -type f | sort; id -un; stat -c %U:%G keep.log data; touch data/x && ! touch /srv/x 2>/dev/null && echo kept",
        )?;
        ensure!(
            files == "./keep.log\n./public/index.html\napp\napp:app\napp:app\nkept",
            "{files}"
        );
        host.ok(&["run", "-d", "--name", "webapp", "-p", "8081:8080", "webapp"])?;
        wait_until("the application answers", SHORT, || -> Result<()> {
            let page = host.get("http://127.0.0.1:8081/")?;
            ensure!(page.contains("it works"), "{page}");
            Ok(())
        })?;
        wait_until("it is healthy", SHORT, || -> Result<()> {
            let health = host.ok(&["inspect", "-f", "{{.State.Health.Status}}", "webapp"])?;
            ensure!(health == "healthy", "{health}");
            Ok(())
        })?;
        host.ok(&["rm", "-f", "-v", "webapp"])?;
        // A page that changes leaves the users' step alone.
        std::fs::write(dir.join("public/index.html"), "better\n")?;
        let said = built(host, &dir, "webapp", &[])?;
        ensure!(cached(&said) == 2, "{said}");
        Ok(())
    });
}

const SCRATCH: &str = r#"FROM busybox AS files
RUN mkdir -p /rootfs/etc /rootfs/tmp /rootfs/data \
 && chmod 1777 /rootfs/tmp \
 && echo 'nobody:x:65534:65534:nobody:/:/bin/false' >/rootfs/etc/passwd \
 && chown 65534:65534 /rootfs/data

FROM scratch
COPY --from=files /rootfs/ /
COPY --from=web:1 --chmod=0555 /web /server
COPY <<EOF /etc/motd
one program, no shell
EOF
ENV PATH=/
USER nobody
WORKDIR /data
EXPOSE 8080/tcp
ENTRYPOINT ["/server"]
CMD ["serve", "8080"]
"#;

#[test]
fn an_image_holds_one_program() {
    host(|host, _| {
        let dir = context(host, "single", &[("Dockerfile", SCRATCH)])?;
        built(host, &dir, "single", &[])?;
        let listed = host.folder().join("single.tar").display().to_string();
        host.ok(&["create", "--name", "single", "single"])?;
        host.ok(&["export", "-o", &listed, "single"])?;
        let listed = pontoon_tests::process::tool("tar", &["--numeric-owner", "-tvf", &listed])?;
        ensure!(
            listed.contains("server") && !listed.contains("bin/sh"),
            "{listed}"
        );
        ensure!(
            listed
                .lines()
                .any(|line| line.starts_with("drwxr-xr-x 65534/65534") && line.ends_with("data/")),
            "{listed}"
        );
        host.ok(&["rm", "single"])?;
        host.ok(&["run", "-d", "--name", "single", "-p", "8082:8080", "single"])?;
        wait_until("the program answers", SHORT, || -> Result<()> {
            host.get("http://127.0.0.1:8082/health").map(drop)
        })?;
        ensure!(
            host.ok(&["exec", "single", "/server", "get", "http://127.0.0.1:8080/env"])?
                .contains("PATH=/")
        );
        host.ok(&["rm", "-f", "single"])?;
        Ok(())
    });
}
