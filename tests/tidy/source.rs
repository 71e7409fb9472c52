//! Rust source with what is not code blanked out, line for line.
//!
//! This reads tokens, not grammar: enough to know a brace from the picture of a brace.

/// Blanks out comments, and the insides of string and character literals. Every line keeps its
/// number; quotes stay, so that a literal is still seen to be one.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let before = out.chars().next_back();
        let in_word = before.is_some_and(is_word);
        let (keep, skip) = if rest.starts_with("//") {
            (0, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (0, block_comment(rest))
        } else if let Some(len) = raw_string(rest).filter(|_| !in_word) {
            (1, len)
        } else if first == '"' {
            (1, quoted(rest, '"'))
        } else if let Some(len) = character(rest) {
            (1, len)
        } else {
            (first.len_utf8(), first.len_utf8())
        };
        let kept = if keep == 1 && skip > 1 {
            "\""
        } else {
            &rest[..keep]
        };
        out.push_str(kept);
        out.extend(rest[keep..skip].chars().filter(|&c| c == '\n'));
        if keep == 1 && skip > 1 {
            out.push('"');
        }
        rest = &rest[skip..];
    }
    out
}

/// Blanks out the items behind `#[cfg(test)]` in text that [`code`] made.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = MARK.len() + item_end(&item[MARK.len()..]);
        out.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    out + rest
}

/// A function: its name, the line it starts on (from 1), and the lines of code between its braces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// The functions with a body in text that [`code`] made.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = code[..at].chars().next_back().is_some_and(is_word);
        let name: String = code[at + 3..].chars().take_while(|&c| is_word(c)).collect();
        if in_word || name.is_empty() {
            continue;
        }
        let end = item_end(&code[at..]);
        let item = &code[at..at + end];
        let Some(open) = item.find('{').filter(|_| item.ends_with('}')) else {
            continue;
        };
        let lines = item[open + 1..end - 1].lines();
        found.push(Function {
            name,
            line: code[..at].matches('\n').count() + 1,
            lines: lines.filter(|line| !line.trim().is_empty()).count(),
        });
    }
    found
}

/// The paths that start with `crate::`, as (line from 1, the word behind it), groups taken apart.
pub(crate) fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, mark) in code.match_indices("crate::") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + mark.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![
                rest.chars()
                    .take_while(|&c| is_word(c) || c == '*')
                    .collect(),
            ],
        };
        found.extend(names.into_iter().map(|name| (line, name)));
    }
    found
}

/// The first words of the parts of a `{...}` group, given from behind its opening brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = vec![String::new()];
    let mut in_head = true;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(String::new());
                in_head = true;
            }
            ':' => in_head = false,
            c if in_head && depth == 0 && !c.is_whitespace() => {
                heads.last_mut().expect("it starts with one").push(c);
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Where the item at the start of `code` ends: behind its closing brace, or behind its `;`.
fn item_end(code: &str) -> usize {
    let mut braces = 0usize;
    let mut others = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    let semicolon = code[at + 1..].starts_with(';');
                    return at + 1 + usize::from(semicolon);
                }
            }
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            ';' if braces == 0 && others == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the block comment at the start, which may nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the raw string at the start, if there is one.
fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let open = text.len() - body.len() + hashes + 1;
    let body = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let len = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(open + len)
}

/// The length of the literal at the start, between `quote`s, with escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The length of the character literal at the start; `None` for a lifetime or anything else.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| quoted(text, '\''))
}
