//! Seccomp profiles in Docker's own format: the OCI's, plus `archMap` and rules that hold only for some capabilities, processors or kernels
//! (`includes`, `excludes`; moby `profiles/seccomp`). Called by `spec::security`.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// This processor in Docker's names: that of `archMap`, that of filters.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (&str, &str) = ("SCMP_ARCH_X86_64", "amd64");
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (&str, &str) = ("SCMP_ARCH_AARCH64", "arm64");

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("Decoding seccomp profile failed: {reason}"))
}

/// Reads a profile for a container with these capabilities. A profile that says nothing at all is no filter.
pub(super) fn read(text: &str, capabilities: &HashSet<Capability>) -> Result<Option<LinuxSeccomp>> {
    let value: Value = serde_json::from_str(text).map_err(invalid)?;
    let Value::Object(mut profile) = value else {
        return Err(invalid("it is not a JSON object"));
    };
    let rules = match profile.remove("syscalls") {
        Some(Value::Array(rules)) => rules,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(invalid("\"syscalls\" is not a list")),
    };
    let says_action = profile.get("defaultAction").is_some_and(|action| action != "");
    if !says_action && rules.is_empty() {
        return Ok(None);
    }
    architectures(&mut profile)?;
    let mut kept = Vec::new();
    for rule in rules {
        kept.extend(conditional(rule, capabilities)?);
    }
    profile.insert("syscalls".to_owned(), Value::Array(kept));
    serde_json::from_value(Value::Object(profile))
        .map(Some)
        .map_err(invalid)
}

/// Turns `archMap` into `architectures`: this processor's with what it can also run.
fn architectures(profile: &mut Map<String, Value>) -> Result<()> {
    let map = match profile.remove("archMap") {
        None | Some(Value::Null) => return Ok(()),
        Some(map) => map,
    };
    let map = map
        .as_array()
        .ok_or_else(|| invalid("\"archMap\" is not a list"))?;
    let listed = profile
        .get("architectures")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if listed && !map.is_empty() {
        return Err(invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    if let Some(own) = map.iter().find(|entry| entry["architecture"] == ARCHITECTURE.0) {
        let mut list = vec![json!(ARCHITECTURE.0)];
        list.extend(own["subArchitectures"].as_array().cloned().unwrap_or_default());
        profile.insert("architectures".to_owned(), Value::Array(list));
    }
    Ok(())
}

/// The rule in the OCI's form, if it holds here.
fn conditional(rule: Value, capabilities: &HashSet<Capability>) -> Result<Option<Value>> {
    let Value::Object(mut rule) = rule else {
        return Err(invalid("a rule is not a JSON object"));
    };
    if let Some(name) = rule.remove("name").filter(|name| name != "") {
        let has_names = rule
            .get("names")
            .and_then(Value::as_array)
            .is_some_and(|names| !names.is_empty());
        if has_names {
            return Err(invalid(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
            ));
        }
        rule.insert("names".to_owned(), json!([name]));
    }
    rule.remove("comment");
    let includes = Filter::read(rule.remove("includes"))?;
    let excludes = Filter::read(rule.remove("excludes"))?;
    let has = |name: &String| capabilities.iter().any(|own| is_named(*own, name));
    let here = |list: &[String]| list.iter().any(|name| name == ARCHITECTURE.1);
    let excluded = here(&excludes.architectures)
        || excludes.capabilities.iter().any(has)
        || excludes.kernel.is_some_and(|least| kernel() >= least);
    let included = (includes.architectures.is_empty() || here(&includes.architectures))
        && includes.capabilities.iter().all(has)
        && includes.kernel.is_none_or(|least| kernel() >= least);
    // Docker's files write `null` where nothing is meant.
    rule.retain(|_, value| !value.is_null());
    Ok((included && !excluded).then_some(Value::Object(rule)))
}

fn is_named(capability: Capability, name: &str) -> bool {
    let own = capability.to_string();
    own.trim_start_matches("CAP_") == name.trim_start_matches("CAP_")
}

/// `includes` or `excludes` of a rule.
#[derive(Default)]
struct Filter {
    capabilities: Vec<String>,
    architectures: Vec<String>,
    kernel: Option<(u32, u32)>,
}

impl Filter {
    fn read(value: Option<Value>) -> Result<Self> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(Self::default());
        };
        let list = |key: &str| match &value[key] {
            Value::Null => Ok(Vec::new()),
            list => serde_json::from_value::<Vec<String>>(list.clone()).map_err(invalid),
        };
        let kernel = match &value["minKernel"] {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            text => Some(version(text)?),
        };
        Ok(Self {
            capabilities: list("caps")?,
            architectures: list("arches")?,
            kernel,
        })
    }
}

fn version(value: &Value) -> Result<(u32, u32)> {
    let bad = || {
        invalid(format!(
            "invalid kernel version: {value}, expected \"<kernel>.<major>\""
        ))
    };
    let (kernel, major) = value
        .as_str()
        .and_then(|text| text.split_once('.'))
        .ok_or_else(bad)?;
    let number = |text: &str| text.parse::<u8>().map(u32::from).map_err(|_| bad());
    match (number(kernel)?, number(major)?) {
        (0, 0) => Err(bad()),
        pair => Ok(pair),
    }
}

/// This kernel's version: 6.1 of `6.1.0-13-amd64`.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &str, capabilities: &[Capability]) -> Vec<String> {
        let profile = read(profile, &capabilities.iter().copied().collect())
            .unwrap()
            .unwrap();
        let rules = profile.syscalls().clone().unwrap_or_default();
        rules.iter().flat_map(|rule| rule.names().clone()).collect()
    }

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "250.0"}},
            {"names": ["gone"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
            {"names": ["elsewhere"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["here"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}},
            {"names": ["not_here"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}}
        ]
    }"#;

    #[test]
    fn conditions_decide_which_rules_hold() {
        assert_eq!(names(PROFILE, &[]), ["read", "write", "clone", "old", "here"]);
        assert_eq!(
            names(PROFILE, &[Capability::SysAdmin]),
            ["read", "write", "mount", "old", "here"]
        );
        let profile = read(PROFILE, &HashSet::new()).unwrap().unwrap();
        assert_eq!(profile.architectures().as_ref().unwrap().len(), 2);
    }

    #[test]
    fn bad_profiles_are_refused_and_empty_ones_are_none() {
        let none = HashSet::new();
        assert!(read("{}", &none).unwrap().is_none());
        for (text, why) in [
            ("{", "Decoding seccomp profile failed"),
            ("[]", "it is not a JSON object"),
            (r#"{"defaultAction":"SCMP_ACT_X"}"#, "unknown variant"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "both 'architectures' and 'archMap'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}]}"#,
                "both 'name' and 'names'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_LOG","includes":{"minKernel":"x"}}]}"#,
                "invalid kernel version: \"x\"",
            ),
        ] {
            let error = read(text, &none).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
