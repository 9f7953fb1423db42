//! Go's text templates, as far as Docker's `--format` uses them: fields, pipelines, `if`, `range`, `with`, variables, and
//! Docker's functions. A template is parsed once ([`Template::parse`]) and run on JSON values ([`Template::render`]).
//!
//! # Layout
//! - [`parse`]: text to nodes.
//! - [`functions`]: `json`, `join`, `printf`, comparisons, …

mod functions;
mod parse;

use std::collections::HashMap;

use serde_json::Value;

pub use parse::Template;
use parse::{Expression, Node, Pipeline};

impl Template {
    /// Runs the template on a value.
    ///
    /// # Errors
    /// A message in the manner of Go's, for a field that is not there or a function's bad argument.
    pub fn render(&self, data: &Value) -> Result<String, String> {
        self.run(data, false)
    }

    /// Runs the template on a value whose nulls are Go's nil pointers: they have no fields.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_typed(&self, data: &Value) -> Result<String, String> {
        self.run(data, true)
    }

    fn run(&self, data: &Value, typed: bool) -> Result<String, String> {
        let mut run = Run {
            source: &self.source,
            typed,
            root: data,
            variables: HashMap::new(),
            out: String::new(),
        };
        run.nodes(&self.nodes, data)
            .map_err(|reason| format!("template: {reason}"))?;
        Ok(run.out)
    }
}

struct Run<'a> {
    source: &'a str,
    typed: bool,
    root: &'a Value,
    variables: HashMap<String, Value>,
    out: String,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variable.is_none() {
                        let text =
                            nil(pipeline, &value).map_or_else(|| functions::print(&value), str::to_owned);
                        self.out.push_str(&text);
                    }
                }
                Node::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let value = self.pipeline(condition, dot)?;
                    self.nodes(if functions::truth(&value) { then } else { otherwise }, dot)?;
                }
                Node::With {
                    value,
                    then,
                    otherwise,
                } => {
                    let value = self.pipeline(value, dot)?;
                    if functions::truth(&value) {
                        self.nodes(then, &value)?;
                    } else {
                        self.nodes(otherwise, dot)?;
                    }
                }
                Node::Range {
                    key,
                    over,
                    body,
                    otherwise,
                } => self.range((key.as_deref(), over), body, otherwise, dot)?,
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        (key, over): (Option<&str>, &Pipeline),
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), String> {
        let items: Vec<(Value, Value)> = match self.pipeline(over, dot)? {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(at, item)| (Value::from(at), item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, item)| (Value::from(name), item))
                .collect(),
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {other}")),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (name, item) in items {
            if let Some(variable) = key {
                self.variables.insert(variable.to_owned(), name);
            }
            if let Some(variable) = &over.variable {
                self.variables.insert(variable.clone(), item.clone());
            }
            self.nodes(body, &item)?;
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut piped: Option<Value> = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        let value = piped.unwrap_or(Value::Null);
        if let Some(variable) = &pipeline.variable {
            self.variables.insert(variable.clone(), value.clone());
        }
        Ok(value)
    }

    /// One command: a function with arguments (the piped value comes last), or a lone operand.
    fn command(&mut self, words: &[Expression], dot: &Value, piped: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = words.split_first() else {
            return Err("missing value for command".to_owned());
        };
        if let Expression::Function(name) = first {
            let mut arguments = rest
                .iter()
                .map(|word| self.operand(word, dot))
                .collect::<Result<Vec<_>, _>>()?;
            arguments.extend(piped);
            return functions::call(name, &arguments);
        }
        // The one method that Docker's rows have: {{.Label "key"}}.
        if let (Expression::Field(path), [key], None) = (first, rest, &piped)
            && path.as_slice() == ["Label"]
            && dot.get("Labels").is_some()
        {
            let key = self.operand(key, dot)?;
            return Ok(label(&dot["Labels"], key.as_str().unwrap_or_default()).into());
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(format!("can't give argument to non-function {first}"));
        }
        self.operand(first, dot)
    }

    /// A mistake in a field with its place, as Go tells it: `:1:8: executing "" at <.State.Nope>: …`.
    fn placed(&self, path: &[String], dot: &Value, reason: String) -> String {
        let text = format!(".{}", path.join("."));
        // The part that is there.
        let good = (0..path.len())
            .take_while(|&count| self.walk(dot, &path[..=count]).is_ok())
            .count();
        let before: usize = path[..good].iter().map(|name| name.len() + 1).sum();
        match self.source.find(&text) {
            Some(at) => format!(":1:{}: executing \"\" at <{text}>: {reason}", at + before),
            None => format!("executing \"\" at <{text}>: {reason}"),
        }
    }

    /// The value at the end of a path of fields.
    fn walk(&self, from: &Value, path: &[String]) -> Result<Value, String> {
        let mut at = from;
        for name in path {
            at = match at {
                Value::Object(fields) => fields
                    .get(name)
                    .ok_or_else(|| format!("map has no entry for key {name:?}"))?,
                Value::Null if self.typed => return Err(format!("nil pointer evaluating .{name}")),
                Value::Null => return Ok(Value::Null),
                _ => return Err(format!("can't evaluate field {name}: the value has no fields")),
            };
        }
        Ok(at.clone())
    }

    fn operand(&mut self, word: &Expression, dot: &Value) -> Result<Value, String> {
        match word {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Field(path) => self
                .walk(dot, path)
                .map_err(|reason| self.placed(path, dot, reason)),
            Expression::Variable(name, path) if name.is_empty() => self.walk(self.root, path),
            Expression::Variable(name, path) => {
                let value = self
                    .variables
                    .get(name)
                    .ok_or_else(|| format!("undefined variable \"${name}\""))?;
                self.walk(value, path)
            }
            Expression::Group(inner, path) => {
                let value = self.pipeline(inner, dot)?;
                self.walk(&value, path)
            }
            Expression::Function(name) => functions::call(name, &[]),
        }
    }
}

/// Fields of Docker's objects that are lists or maps: without content they are null in JSON, but Go prints them empty.
const LISTS: &[&str] = &[
    "Aliases",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "Mounts",
    "OnBuild",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "VolumesFrom",
];
const MAPS: &[&str] = &[
    "Annotations",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Options",
    "StorageOpt",
    "Tmpfs",
    "Volumes",
];

/// Pointers of Docker's objects: null where there is nothing.
const POINTERS: &[&str] = &[
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
];

/// What Go prints for a list, map or pointer that is null, if the pipeline is such a field by itself.
fn nil(pipeline: &Pipeline, value: &Value) -> Option<&'static str> {
    let [command] = pipeline.commands.as_slice() else {
        return None;
    };
    let ([Expression::Field(path)], Value::Null) = (command.as_slice(), value) else {
        return None;
    };
    let name = path.last()?.as_str();
    [(LISTS, "[]"), (MAPS, "map[]"), (POINTERS, "<nil>")]
        .into_iter()
        .find_map(|(names, shown)| names.contains(&name).then_some(shown))
}

/// The value of a label, in a mapping or in Docker's "a=1,b=2"; a comma ends a value if another `key=` follows it.
fn label(labels: &Value, key: &str) -> String {
    let Some(text) = labels.as_str() else {
        return labels[key].as_str().unwrap_or_default().to_owned();
    };
    let mut found: Option<String> = None;
    for piece in text.split(',') {
        match (piece.split_once('='), &mut found) {
            (Some((name, value)), None) if name == key => found = Some(value.to_owned()),
            (Some(_), Some(_)) => break,
            (None, Some(value)) => {
                value.push(',');
                value.push_str(piece);
            }
            _ => {}
        }
    }
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests;
