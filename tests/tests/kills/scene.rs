//! Where the walks take place: a host with images, everything warm, and a container beside the operation that must not be
//! touched. Used by `walk` and `start`.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, SHORT, wait_until, with_host};

/// What runs all the time beside the operation.
pub struct Bystander {
    pid: String,
}

impl Bystander {
    fn start(host: &Host) -> Result<Self> {
        host.line("run --detach --name bystander --publish 9090:8080 web:1")?;
        Ok(Self { pid: pid(host)? })
    }

    /// It is the same process, and its port answers.
    pub fn check(&self, host: &Host) -> Result<()> {
        let now = pid(host)?;
        ensure!(now == self.pid, "the bystander was {} and is {now}", self.pid);
        wait_until("the bystander answers", SHORT, || {
            host.get("http://127.0.0.1:9090/")
        })?;
        Ok(())
    }
}

fn pid(host: &Host) -> Result<String> {
    let format = "{{.State.Status}} {{.State.Pid}}";
    host.ok(&["inspect", "--format", format, "bystander"])
}

/// State of the container `box`; `gone` if there is none.
pub fn state(host: &Host) -> Result<String> {
    let listed = host.line("ps --all --filter name=box --format {{.State}}")?;
    Ok(if listed.is_empty() {
        "gone".to_owned()
    } else {
        listed
    })
}

/// From one step to the next that is tried.
pub fn stride() -> usize {
    let wanted = std::env::var("PONTOON_FAULTS_STRIDE").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// A host with images, everything warm, and a bystander.
pub fn scene(test: impl FnOnce(&Host, &Bystander) -> Result<()>) {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: the killer knows the registers of x86-64 only");
        return;
    }
    with_host(|host, _| {
        host.warm_up()?;
        let bystander = Bystander::start(host)?;
        test(host, &bystander)
    });
}
