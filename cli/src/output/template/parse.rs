//! The template grammar: text with `{{ actions }}`, to a tree of nodes. Called by [`super`].

use std::fmt;

use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    pub(super) nodes: Vec<Node>,
    /// What it was read from: mistakes are told with their place in it.
    pub(super) source: String,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// `$variable := command | command`
#[derive(Debug)]
pub(super) struct Pipeline {
    pub variable: Option<String>,
    pub commands: Vec<Vec<Expression>>,
}

#[derive(Debug)]
pub(super) enum Expression {
    Literal(Value),
    /// `.A.B`; empty: the dot itself.
    Field(Vec<String>),
    /// `$x.A`; an empty name is the root, `$`.
    Variable(String, Vec<String>),
    Group(Pipeline, Vec<String>),
    Function(String),
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write!(f, "{value}"),
            Self::Field(path) => write!(f, ".{}", path.join(".")),
            Self::Variable(name, _) => write!(f, "${name}"),
            Self::Group(..) => f.write_str("(…)"),
            Self::Function(name) => f.write_str(name),
        }
    }
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// A message that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pieces =
            split(text).map_err(|reason| format!("template parsing error: template: :1: {reason}"))?;
        let mut parser = Parser { pieces, at: 0 };
        let (nodes, end) = parser
            .block()
            .map_err(|reason| format!("template parsing error: template: :1: {reason}"))?;
        match end {
            None => Ok(Self {
                nodes,
                source: text.to_owned(),
            }),
            Some(end) => Err(format!(
                "template parsing error: template: :1: unexpected {{{{{end}}}}}"
            )),
        }
    }
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `.`, `.A`, `$x`, `$`, a name, a number, `|`, `(`, `)`, `:=`, `=`, `,`
    Word(String),
    Text(String),
}

fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let mut before = &rest[..start];
        if trim_next {
            before = before.trim_start();
        }
        rest = &rest[start + 2..];
        if let Some(inner) = rest.strip_prefix("- ") {
            before = before.trim_end();
            rest = inner;
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let (tokens, used) = tokens(rest)?;
        trim_next = rest[..used].trim_end_matches("}}").ends_with(" -");
        rest = &rest[used..];
        if !matches!(tokens.first(), Some(Token::Word(word)) if word.starts_with("/*")) {
            pieces.push(Piece::Action(tokens));
        }
    }
    let tail = if trim_next { rest.trim_start() } else { rest };
    if !tail.is_empty() {
        pieces.push(Piece::Text(tail.to_owned()));
    }
    Ok(pieces)
}

/// The tokens up to `}}`, and how many bytes they and it take.
fn tokens(text: &str) -> Result<(Vec<Token>, usize), String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            return Err("unclosed action".to_owned());
        };
        if rest.starts_with("}}") {
            return Ok((tokens, at + 2));
        }
        if rest.starts_with("-}}") {
            return Ok((tokens, at + 3));
        }
        if rest.starts_with("/*") {
            let end = rest.find("*/").ok_or("unclosed comment")?;
            tokens.push(Token::Word("/*".to_owned()));
            at += end + 2;
        } else if first.is_whitespace() {
            at += first.len_utf8();
        } else if first == '"' || first == '`' {
            let (value, used) = quoted(rest, first)?;
            tokens.push(Token::Text(value));
            at += used;
        } else if let Some(word) = ["|", "(", ")", ":=", "=", ","]
            .iter()
            .find(|word| rest.starts_with(**word))
        {
            tokens.push(Token::Word((*word).to_owned()));
            at += word.len();
        } else {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '$' | '-' | '+')))
                .unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("unexpected {first:?} in action"));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            at += end;
        }
    }
}

fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            value.push(match c {
                'n' => '\n',
                't' => '\t',
                other => other,
            });
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            return Ok((value, at + 1));
        } else {
            value.push(c);
        }
    }
    Err("unterminated quoted string".to_owned())
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
}

impl Parser {
    /// Nodes up to `{{end}}`, `{{else …}}` or the end of text; says which it was.
    fn block(&mut self) -> Result<(Vec<Node>, Option<String>), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            self.at += 1;
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    continue;
                }
                Piece::Action(tokens) => tokens.clone(),
            };
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                Some(Token::Text(_)) => "",
                None => return Err("missing value for command".to_owned()),
            };
            match keyword {
                "end" => return Ok((nodes, Some("end".to_owned()))),
                "else" => {
                    if tokens.len() > 1 {
                        // `else if` reads as an `if` inside the else branch that shares its `end`.
                        self.at -= 1;
                        self.pieces[self.at] = Piece::Action(tokens[1..].to_vec());
                        return Ok((nodes, Some("else if".to_owned())));
                    }
                    return Ok((nodes, Some("else".to_owned())));
                }
                "if" | "with" | "range" => nodes.push(self.control(&tokens)?),
                _ => nodes.push(Node::Print(pipeline(&mut tokens.as_slice())?)),
            }
        }
        Ok((nodes, None))
    }

    fn control(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let Some((Token::Word(keyword), mut rest)) = tokens.split_first() else {
            return Err("missing keyword".to_owned());
        };
        let mut key = None;
        if let [Token::Word(first), Token::Word(comma), ..] = rest
            && keyword == "range"
            && comma == ","
        {
            key = first.strip_prefix('$').map(str::to_owned);
            rest = &rest[2..];
        }
        let head = pipeline(&mut rest)?;
        let (body, end) = self.block()?;
        let otherwise = match end.as_deref() {
            Some("end") => Vec::new(),
            Some("else if") => {
                let Some(Piece::Action(tokens)) = self.pieces.get(self.at) else {
                    return Err("malformed else".to_owned());
                };
                let tokens = tokens.clone();
                self.at += 1;
                vec![self.control(&tokens)?]
            }
            Some(_) => match self.block()? {
                (nodes, Some(end)) if end == "end" => nodes,
                _ => return Err(format!("{{{{{keyword}}}}} without {{{{end}}}}")),
            },
            None => return Err(format!("{{{{{keyword}}}}} without {{{{end}}}}")),
        };
        Ok(match keyword.as_str() {
            "if" => Node::If {
                condition: head,
                then: body,
                otherwise,
            },
            "with" => Node::With {
                value: head,
                then: body,
                otherwise,
            },
            _ => Node::Range {
                key,
                over: head,
                body,
                otherwise,
            },
        })
    }
}

fn pipeline(tokens: &mut &[Token]) -> Result<Pipeline, String> {
    let mut variable = None;
    if let [Token::Word(name), Token::Word(assign), rest @ ..] = *tokens
        && let (Some(name), ":=" | "=") = (name.strip_prefix('$'), assign.as_str())
    {
        variable = Some(name.to_owned());
        *tokens = rest;
    }
    let mut commands = vec![Vec::new()];
    while let Some((token, rest)) = tokens.split_first() {
        *tokens = rest;
        let expression = match token {
            Token::Word(word) if word == ")" => break,
            Token::Word(word) if word == "|" => {
                commands.push(Vec::new());
                continue;
            }
            Token::Word(word) if word == "(" => {
                let inner = pipeline(tokens)?;
                let mut path = Vec::new();
                if let Some((Token::Word(word), rest)) = tokens.split_first()
                    && word.starts_with('.')
                    && word.len() > 1
                {
                    path = fields(word);
                    *tokens = rest;
                }
                Expression::Group(inner, path)
            }
            Token::Word(word) => operand(word)?,
            Token::Text(text) => Expression::Literal(Value::from(text.clone())),
        };
        if let Some(command) = commands.last_mut() {
            command.push(expression);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".to_owned());
    }
    Ok(Pipeline { variable, commands })
}

fn operand(word: &str) -> Result<Expression, String> {
    if let Some(name) = word.strip_prefix('$') {
        let (name, path) = name.split_once('.').unwrap_or((name, ""));
        return Ok(Expression::Variable(name.to_owned(), fields(path)));
    }
    if word.starts_with('.') {
        return Ok(Expression::Field(fields(word)));
    }
    match word {
        "true" => return Ok(Expression::Literal(Value::Bool(true))),
        "false" => return Ok(Expression::Literal(Value::Bool(false))),
        "nil" => return Ok(Expression::Literal(Value::Null)),
        _ => {}
    }
    if let Ok(number) = word.parse::<i64>() {
        return Ok(Expression::Literal(Value::from(number)));
    }
    if let Ok(number) = word.parse::<f64>() {
        return Ok(Expression::Literal(Value::from(number)));
    }
    if super::functions::exists(word) {
        Ok(Expression::Function(word.to_owned()))
    } else {
        Err(format!("function {word:?} not defined"))
    }
}

fn fields(path: &str) -> Vec<String> {
    path.split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
